"""What PTQD's correction buys on the bundled model: with and without DDIM's noise, with and without clipping.

    python benchmarks/correction_fashion32.py --work out/correction --json docs/results/correction.json

Its derivation knows no clipping of the predicted image to [-1, 1], which the model's own scheduler does.

SQNR is of the noise prediction as the scheduler uses it, on full-precision trajectories of other noise than the
correction was measured on; PSNR is of images from the same noise. Results are appended as they finish.
"""

import argparse
import json
from itertools import product
from pathlib import Path
from typing import Any

import torch
from diffusers import DDIMScheduler

import tempoquant
from tempoquant.checkpoint.evidence import machine
from tempoquant.correction import Trajectories, compare_predictions
from tempoquant.evaluation.paired import psnr
from tempoquant.pipelines import Model, resolve

MODEL, STEPS, SEED = "fashion32", 20, 1
CORRECTIONS: dict[str, dict[str, Any] | None] = {
    "none": None,
    "ptqd": {"kind": "correlated"},
    "ptqd, prediction alone": {"kind": "correlated", "variance": False},
    "mmse": {"kind": "mmse"},
    "ptqd, steps of 4, 6 or 8 bits": {"kind": "correlated", "step_bits": (4, 6, 8)},
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, required=True, help="recordings and finished weights")
    parser.add_argument("--json", type=Path, required=True, help="results")
    parser.add_argument("--methods", default="rtn,tfmq-dm")
    parser.add_argument("--bits", default="4,8", help="weight,activation")
    parser.add_argument("--images", type=int, default=16)
    parser.add_argument("--measured", type=int, default=16, help="trajectories the correction is measured on")
    parser.add_argument("--threads", type=int, default=1)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    args.work.mkdir(parents=True, exist_ok=True)
    about = {"steps": STEPS, "images": args.images, "measured": args.measured, "seed": SEED, "machine": machine()}
    found = json.loads(args.json.read_text()) if args.json.exists() else {**about, "results": []}
    done = {row["name"] for row in found["results"]}
    for method, clip, eta, name in product(args.methods.split(","), (True, False), (0.0, 1.0), CORRECTIONS):
        label = f"{method} W{args.bits.replace(',', 'A')} {'clipped' if clip else 'unclipped'} eta {eta:g} {name}"
        if label not in done:
            found["results"].append({"name": label} | one(method, clip, eta, name, args))
            args.json.write_text(json.dumps(found, indent=1) + "\n")
            print({k: v for k, v in found["results"][-1].items() if k != "correction"}, flush=True)


def one(method: str, clip: bool, eta: float, name: str, args: argparse.Namespace) -> dict[str, Any]:
    """Quantize with one correction, and judge."""
    full = resolve(MODEL)
    full = full.with_scheduler(DDIMScheduler.from_config(full.denoiser.scheduler.config, clip_sample=clip))
    weights, activations = (int(width) for width in args.bits.split(","))
    entries = CORRECTIONS[name]
    wanted = None if entries is None else {**entries, "samples": args.measured}
    recipe = tempoquant.method_recipe(
        method,
        weights=weights,
        activations=activations,
        calibration={"steps": STEPS, "eta": eta},
        correction=wanted,
    )
    work = args.work / f"eta {eta:g} {'clipped' if clip else 'unclipped'}"
    work.mkdir(exist_ok=True)
    recording, units = work / "recording", work / f"{method} W{weights}"
    made = tempoquant.quantize(full, recipe, recording=recording, units=units)
    run: dict[str, Any] = {"steps": STEPS, "seed": SEED, "eta": eta}
    truth, images = (t.generate(args.images, **run) for t in (full, made.model))
    return {
        "psnr": float(psnr(truth, images).mean()),
        **sqnr(full, made, run, args.images),
        "mean_error": float((images - truth).double().mean()),
        "std": [float(x.double().std()) for x in (truth, images)],
        "seconds": made.facts["timings"],
        "correction": made.facts["correction"],
    }


def sqnr(full: Model, made: tempoquant.QuantizedPipeline, run: dict[str, Any], samples: int) -> dict[str, float]:
    """Of the noise prediction as the denoiser gives it and as the scheduler uses it, in dB over all steps."""
    plain = made.model.with_scheduler(full.denoiser.scheduler)
    (sums,) = compare_predictions(full, plain, made.clock, Trajectories(range(samples), run), [lambda: None])
    count, e, q, ee, qq, eq = sums.by_channel()
    found = {"sqnr": torch.zeros_like(e), "sqnr_corrected": torch.zeros_like(e)}
    tables = made.correction
    for name, gain, bias in (("sqnr", 1.0, 0.0), *([("sqnr_corrected", *tables[:2])] if tables else [])):
        # |gain (q - bias) - e|^2 from the sums.
        found[name] = gain**2 * (qq - 2 * bias * q + bias**2 * count) - 2 * gain * (eq - bias * e) + ee
    return {name: float(10 * torch.log10(ee.sum() / error.sum())) for name, error in found.items() if error.any()}


if __name__ == "__main__":
    main()
