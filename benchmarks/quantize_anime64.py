"""Quantize a 63 M-parameter UNet that diffusers does not know: rounding against TFMQ-DM, times and paired metrics.

    TEMPOQUANT_ANIME64=DIR python benchmarks/quantize_anime64.py --work out/anime64 --json docs/results/anime64.json

Results are appended as they finish; a killed run continues. Pictures go to the work folder only: they stay private.
"""

import argparse
import json
import resource
import time
from pathlib import Path
from typing import Any

import torch
from anime64_model import denoiser

import tempoquant
from tempoquant.checkpoint.evidence import machine
from tempoquant.evaluation import Reference, compare, reference, save_grid
from tempoquant.graph import read_denoiser
from tempoquant.job import probe_of
from tempoquant.pipelines import resolve, to_images
from tempoquant.progress import RichProgress

STEPS = 50
RUNS = [
    ("rtn", 8, "fast"),
    ("tfmq-dm", 8, "fast"),
    ("rtn", 6, "fast"),
    ("tfmq-dm", 6, "fast"),
    ("tfmq-dm", 8, "balanced"),
    ("tfmq-dm", 6, "balanced"),
    ("tempo-fast", 8, "fast"),
    ("tempo-fast", 6, "fast"),
]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, required=True, help="recording, finished weights and pictures")
    parser.add_argument("--json", type=Path, required=True, help="results")
    parser.add_argument("--samples", type=int, default=64, help="calibration trajectories")
    parser.add_argument("--images", type=int, default=32, help="evaluated images")
    parser.add_argument("--noise-samples", type=int, default=8, help="trajectories whose predicted noise is compared")
    parser.add_argument("--methods", help="those to run, such as rtn,tempo-fast; all if not given")
    args = parser.parse_args()
    torch.set_num_threads(2)
    args.work.mkdir(parents=True, exist_ok=True)
    found = json.loads(args.json.read_text()) if args.json.exists() else header(args)
    done = {row["name"] for row in found["results"]}
    wanted = args.methods.split(",") if args.methods else [method for method, _, _ in RUNS]
    todo = [run for run in RUNS if run[0] in wanted and label(*run) not in done]
    truth = full_precision(args) if todo else None
    for run in todo:
        found["results"].append(one(run, truth, args))
        args.json.write_text(json.dumps(found, indent=1) + "\n")
    for row in found["results"]:
        print(f"{row['name']:28} PSNR {row['psnr']:.2f} dB  SQNR {row['sqnr']:.2f} dB  {row['seconds']:.0f} s")


def header(args: argparse.Namespace) -> dict[str, Any]:
    """What all results of a file share."""
    command = f"python benchmarks/quantize_anime64.py --samples {args.samples} --images {args.images}"
    schedule = {"sampler": "ddim", "steps": STEPS, "eta": 0, "clip": [-1, 1]}
    settings = {"calibration_trajectories": args.samples, "images": args.images, "noise_samples": args.noise_samples}
    return {"command": command, "schedule": schedule, **settings, "seed": 1, "machine": machine(), "results": []}


def label(method: str, activations: int, effort: str) -> str:
    """The name of a run in the results."""
    return f"{method} W4A{activations}" + (f" {effort}" if method != "rtn" else "")


def full_precision(args: argparse.Namespace) -> Reference:
    """Full-precision images, predictions and features, shared by all runs."""
    model = resolve(denoiser())
    graph = read_denoiser(probe_of(model, tempoquant.method_recipe("rtn", calibration={"steps": STEPS})))
    options = {"samples": args.images, "noise_samples": args.noise_samples, "batch_size": 8}
    truth = reference(model, projections=graph.projections, steps=STEPS, seed=1, progress=RichProgress(), **options)
    save_grid(to_images(truth.images), args.work / "full precision.png")
    return truth


def one(run: tuple[str, int, str], truth: Reference, args: argparse.Namespace) -> dict[str, Any]:
    """Quantize and judge one run."""
    method, activations, effort = run
    calibration = {"samples": args.samples, "steps": STEPS}
    recipe = tempoquant.method_recipe(
        method, weights=4, activations=activations, effort=effort, calibration=calibration
    )
    start = time.perf_counter()
    shared = {"recording": args.work / "recording", "units": args.work / f"units {method} {effort}"}
    quantized = tempoquant.quantize(denoiser(), recipe, progress=RichProgress(), **shared)
    seconds = time.perf_counter() - start
    folder = args.work / label(*run)
    size = quantized.save_pretrained(folder, overwrite=True)
    metrics = compare(truth, quantized.target, progress=RichProgress())
    assert metrics.images is not None
    save_grid(to_images(metrics.images), args.work / f"{folder.name}.png")
    return {
        "name": folder.name,
        "psnr": sum(metrics.psnr) / len(metrics.psnr),
        "ssim": sum(metrics.ssim) / len(metrics.ssim),
        "sqnr": metrics.sqnr,
        "sqnr_per_step": metrics.to_dict()["sqnr"]["per_step"],
        "temporal_cosine": metrics.cosine_mean,
        "temporal_cosine_min": metrics.cosine_min,
        "temporal_mismatch": metrics.temporal_mismatch,
        "seconds": seconds,
        "seconds_by_stage": quantized.facts["timings"],
        "peak_memory_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
        "size": size.to_dict(),
        "recipe": recipe.model_dump(mode="json"),
    }


if __name__ == "__main__":
    main()
