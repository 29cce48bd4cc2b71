"""What a denoiser's call takes with its temporal layers run, remembered and frozen into tables.

    python benchmarks/temporal_tables.py --width 1152 --layers 4 --json out.json

A DiT of random weights in the integer engine, two labels a call as guidance has them. "first" is a call of
``prompt_tables`` that fills its table, "again" one that looks up, "frozen" one of a folder that is frozen to these
labels. Calls are interleaved; ratios are of calls side by side.
"""

import argparse
import copy
import json
import statistics
import time
from pathlib import Path
from typing import Any

import torch
from diffusers import DDIMScheduler, DiTTransformer2DModel
from torch import Tensor, nn

import tempoquant
from tempoquant.checkpoint.evidence import machine
from tempoquant.temporal.prompt_tables import PromptTables

HEAD = 72
LABELS = torch.tensor([1, 2])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, required=True, help="results")
    parser.add_argument("--width", type=int, default=1152, help=f"a multiple of {HEAD}; DiT-XL's is 1152")
    parser.add_argument("--layers", type=int, default=4)
    parser.add_argument("--size", type=int, default=32, help="latent side; tokens are a quarter of its square")
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--threads", type=int, default=2)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    quantized, total = made(args.width, args.layers, args.size)
    frozen = copy.deepcopy(quantized)
    removed = frozen.freeze_schedule(conditioning={"class_labels": LABELS})
    calls = seconds(quantized, frozen, args.size, args.rounds)
    found: dict[str, Any] = {"machine": machine(), "options": {k: v for k, v in vars(args).items() if k != "json"}}
    found["parameters"] = {"all": total, "removed": removed, "share": removed / total}
    for name, own in calls.items():
        ratios = sorted(a / b for a, b in zip(calls["run"], own, strict=True))
        quarter = len(ratios) // 4
        found[name] = {
            "milliseconds": 1e3 * statistics.median(own),
            "speedup": statistics.median(ratios),
            "quartiles": [ratios[quarter], ratios[-1 - quarter]],
        }
        print(name, found[name], flush=True)
    args.json.write_text(json.dumps(found, indent=1, default=str) + "\n")


def made(width: int, layers: int, size: int) -> tuple[tempoquant.QuantizedPipeline, int]:
    """A quantized DiT, and how many numbers it had."""
    torch.manual_seed(0)
    module = DiTTransformer2DModel(
        num_attention_heads=width // HEAD,
        attention_head_dim=HEAD,
        in_channels=4,
        out_channels=8,
        num_layers=layers,
        sample_size=size,
        patch_size=2,
        num_embeds_ada_norm=1000,
    ).eval()
    recipe = tempoquant.method_recipe(
        "rtn", weights=8, activations=8, calibration={"samples": 2, "steps": 4, "rows": 4, "rows_per_step": 1}
    )
    denoiser = tempoquant.Denoiser(module, DDIMScheduler(), (4, size, size), call)
    total = sum(parameter.numel() for parameter in module.parameters())
    return tempoquant.quantize(denoiser, recipe, conditioning={"class_labels": LABELS}), total


def call(module: nn.Module, x: Tensor, t: Tensor, class_labels: Tensor) -> Tensor:
    """The predicted noise, without the variance."""
    return module(x, timestep=t, class_labels=class_labels, return_dict=False)[0][:, : x.shape[1]]


def seconds(quantized: Any, frozen: Any, size: int, rounds: int) -> dict[str, list[float]]:
    """Of single calls, by kind, side by side."""
    x, t = torch.randn(len(LABELS), 4, size, size), int(quantized.clock.timesteps[1])
    names = (*quantized.blueprint.shared, *quantized.blueprint.projections)
    found: dict[str, list[float]] = {"run": [], "first": [], "again": [], "frozen": []}

    def time_of(denoiser: Any) -> float:
        start = time.perf_counter()
        denoiser(x, t, class_labels=LABELS)
        return time.perf_counter() - start

    with torch.inference_mode():
        for _ in range(rounds + 1):
            found["run"].append(time_of(quantized.denoiser))
            with PromptTables(quantized.denoiser.module, names, quantized.clock.name):
                found["first"].append(time_of(quantized.denoiser))
                found["again"].append(time_of(quantized.denoiser))
            found["frozen"].append(time_of(frozen.denoiser))
    # The first round packs weights.
    return {name: values[1:] for name, values in found.items()}


if __name__ == "__main__":
    main()
