"""Pictures of what other tools would export, beside our exports: NNCF's int8 in OpenVINO, calibrated on trajectories.

    python benchmarks/export_fashion32.py --json docs/results/export_fashion32.json

All are calibrated on the inputs of the same full-precision trajectories, and judged on images from the same noise. The
whole of a picture is drawn by the runtime. Needs the extras `openvino` and `onnx`, and nncf.
"""

import argparse
import json
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import nncf
import numpy as np
import torch
from rival_engines import compiled, openvino_model

import tempoquant
from tempoquant.checkpoint.evidence import machine
from tempoquant.evaluation import compare, reference
from tempoquant.exporting.exported_denoiser import ExportedDenoiser
from tempoquant.pipelines import Model, resolve
from tempoquant.pipelines.diffusers_model import DiffusersModel, replaced

MODEL, STEPS, BATCH = "fashion32", 20, 8
OURS = (("tfmq-dm", 8, 8), ("tempo-fast", 8, 8), ("tfmq-dm", 4, 8), ("tempo-fast", 4, 8))
PRESETS = {"default": {}, "mixed preset": {"preset": nncf.QuantizationPreset.MIXED}}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, required=True)
    parser.add_argument("--samples", type=int, default=32, help="calibration trajectories")
    parser.add_argument("--images", type=int, default=16)
    parser.add_argument("--threads", type=int, default=2)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    full = resolve(MODEL)
    truth = reference(full, projections=(), samples=args.images, steps=STEPS, seed=1)
    found: dict[str, Any] = {"machine": machine(), "samples": args.samples, "images": args.images, "results": []}

    def judged(name: str, target: Model) -> None:
        metrics = compare(truth, target)
        row = {"name": name, "psnr": metrics.to_dict()["psnr"]["mean"], "sqnr": metrics.sqnr}
        print({key: round(value, 2) if isinstance(value, float) else value for key, value in row.items()}, flush=True)
        found["results"].append(row)
        args.json.write_text(json.dumps(found, indent=1) + "\n")

    inputs = recorded(full, args.samples)
    model = openvino_model(full.denoiser, tuple(map(torch.from_numpy, inputs[0])))
    judged("float32 in OpenVINO", drawing(full, model))
    for name, options in PRESETS.items():
        int8 = nncf.quantize(model, nncf.Dataset(inputs), subset_size=len(inputs), **options)
        judged(f"NNCF int8, {name}, in OpenVINO", drawing(full, int8))
    with tempfile.TemporaryDirectory() as work:
        for method, weights, activations in OURS:
            calibration = {"samples": args.samples, "steps": STEPS}
            recipe = tempoquant.method_recipe(method, weights=weights, activations=activations, calibration=calibration)
            quantized = tempoquant.quantize(full, recipe, recording=Path(work) / "recording")
            judged(f"{recipe.name}, here", quantized.model)
            for to in ("openvino", "onnx"):
                out = tempoquant.export(quantized, Path(work) / f"{recipe.name} {to}", to)
                judged(f"{recipe.name} exported to {to}", tempoquant.load_exported(out))


def recorded(full: Model, samples: int) -> list[list[np.ndarray]]:
    """(x_t, t) of every call along full-precision trajectories, in batches of ``BATCH``."""
    seen: list[list[np.ndarray]] = []

    def keep(module: torch.nn.Module, args: tuple[Any, ...], given: dict[str, Any]) -> None:
        x = given.get("sample", args[0] if args else None)
        t = given.get("timestep", args[1] if len(args) > 1 else None)
        steps = torch.as_tensor(t).float().reshape(-1).expand(x.shape[0])
        seen.append([np.ascontiguousarray(x.numpy()), np.ascontiguousarray(steps.numpy())])

    handle = full.denoiser.module.register_forward_pre_hook(keep, with_kwargs=True)
    full.generate(samples, steps=STEPS, seed=0, batch_size=BATCH)
    handle.remove()
    return seen


def drawing(full: Model, model: Any) -> Model:
    """The pipeline with an OpenVINO model in the place of its denoiser."""
    made = compiled(model)

    def session(arrays: Mapping[str, np.ndarray]) -> np.ndarray:
        return made([arrays["sample"], arrays["timestep"]])[0]

    assert isinstance(full, DiffusersModel)
    config = {k: v for k, v in full.denoiser.module.config.items() if not k.startswith("_")}
    return DiffusersModel(replaced(full.pipe, unet=ExportedDenoiser(session, config)), "openvino")


if __name__ == "__main__":
    main()
