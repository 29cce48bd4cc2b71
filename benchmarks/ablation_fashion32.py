"""What each part of TFMQ-DM buys on the bundled model: TIAR and FSC turned off one by one, beside "Prev" and rtn.

    python benchmarks/ablation_fashion32.py --work out/ablation --json docs/results/ablation_fashion32.json

"Prev" reconstructs temporal layers inside the blocks they belong to (BRECQ's way) and gives their inputs one interval;
"Freeze" rounds them to nearest. Results are appended as they finish; a killed run continues.
"""

import argparse
import json
from pathlib import Path
from typing import Any

import torch

import tempoquant
from tempoquant.checkpoint.evidence import machine
from tempoquant.evaluation import Reference, compare, reference
from tempoquant.graph import read_denoiser
from tempoquant.pipelines import resolve
from tempoquant.progress import RichProgress
from tempoquant.stages import probe_of

MODEL, STEPS = "fashion32", 20
ROWS: dict[str, tuple[str, dict[str, str]]] = {
    "rtn": ("rtn", {}),
    "Prev (in blocks, no FSC)": ("tfmq-dm", {"reconstruction": "block", "calibration": "constant"}),
    "Freeze (nearest, no FSC)": ("tfmq-dm", {"reconstruction": "nearest", "calibration": "constant"}),
    "FSC without TIAR": ("tfmq-dm", {"reconstruction": "nearest"}),
    "TIAR without FSC": ("tfmq-dm", {"calibration": "constant"}),
    "TFMQ-DM (TIAR and FSC)": ("tfmq-dm", {}),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, required=True, help="recording and finished weights")
    parser.add_argument("--json", type=Path, required=True, help="results")
    parser.add_argument("--effort", default="balanced")
    parser.add_argument("--bits", default="4,8;4,6", help="weight,activation;...")
    parser.add_argument("--images", type=int, default=32)
    parser.add_argument("--threads", type=int, default=2)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    args.work.mkdir(parents=True, exist_ok=True)
    schedule = {"sampler": "ddim", "steps": STEPS, "images": args.images, "seed": 1, "calibration_samples": 64}
    empty = {"effort": args.effort, **schedule, "machine": machine(), "results": []}
    found = json.loads(args.json.read_text()) if args.json.exists() else empty
    done = {row["name"] for row in found["results"]}
    truth = full_precision(args.images)
    for bits in args.bits.split(";"):
        weights, activations = (int(width) for width in bits.split(","))
        for name in ROWS:
            label = f"W{weights}A{activations} {name}"
            if label not in done:
                found["results"].append({"name": label} | one(name, weights, activations, truth, args))
                args.json.write_text(json.dumps(found, indent=1) + "\n")


def full_precision(images: int) -> Reference:
    """What every row is compared with."""
    model = resolve(MODEL)
    graph = read_denoiser(probe_of(model, tempoquant.method_recipe("rtn", calibration={"steps": STEPS})))
    return reference(model, projections=graph.projections, samples=images, steps=STEPS, seed=1, progress=RichProgress())


def one(name: str, weights: int, activations: int, truth: Reference, args: argparse.Namespace) -> dict[str, Any]:
    """Quantize with one part changed, and judge."""
    method, temporal = ROWS[name]
    recipe = tempoquant.method_recipe(
        method, weights=weights, activations=activations, effort=args.effort, calibration={"steps": STEPS}
    ).model_dump()
    recipe = tempoquant.Recipe.parse({**recipe, "temporal": {**recipe["temporal"], **temporal}})
    units = args.work / f"{method} {recipe.temporal.reconstruction} W{weights}"
    quantized = tempoquant.quantize(MODEL, recipe, recording=args.work / "recording", units=units)
    metrics = compare(truth, quantized.model)
    print(f"W{weights}A{activations} {name}: PSNR {metrics.to_dict()['psnr']['mean']:.2f} cosine {metrics.cosine_min}")
    return {
        "psnr": metrics.to_dict()["psnr"]["mean"],
        "sqnr": metrics.sqnr,
        "temporal_cosine": metrics.cosine_mean,
        "temporal_cosine_min": metrics.cosine_min,
        "temporal_mismatch": metrics.temporal_mismatch,
        "seconds_by_stage": quantized.facts["timings"],
        "temporal": recipe.temporal.model_dump(),
    }


if __name__ == "__main__":
    main()
