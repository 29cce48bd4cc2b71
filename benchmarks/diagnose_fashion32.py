"""Whether a diagnosis is right: temporal layers named and healed, and what its policy gains beside random layers.

    python benchmarks/diagnose_fashion32.py --work out/diagnose --json docs/results/diagnose_fashion32.json

Every model is diagnosed at seed 1. At the bits of ``--policy`` it is then quantized again with the diagnosis's policy,
and with as many layers drawn at random, and judged on images of seed 2. Results are appended as they finish; a killed
run continues.
"""

import argparse
import json
from pathlib import Path
from typing import Any

import torch

import tempoquant
from tempoquant import Diagnosis, QuantizedPipeline, Recipe, diagnose
from tempoquant.checkpoint.evidence import machine
from tempoquant.evaluation import Reference, compare, reference
from tempoquant.pipelines import resolve
from tempoquant.progress import RichProgress
from tempoquant.randomness import rng
from tempoquant.recipe.fragment import keep_higher, with_overrides

MODEL, STEPS, JUDGED_SEED = "fashion32", 20, 2


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, required=True, help="quantized folders, diagnoses and recordings")
    parser.add_argument("--json", type=Path, required=True, help="results")
    parser.add_argument("--methods", default="rtn,tfmq-dm")
    parser.add_argument("--bits", default="4,8;8,8;4,6", help="weight,activation;...")
    parser.add_argument("--policy", default="4,8", help="bits at which policies are applied")
    parser.add_argument("--random", type=int, default=5, help="random draws of layers")
    parser.add_argument("--images", type=int, default=16)
    parser.add_argument("--threads", type=int, default=2)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    args.work.mkdir(parents=True, exist_ok=True)
    schedule = {"steps": STEPS, "images": args.images, "seed": JUDGED_SEED, "calibration_samples": 32}
    empty = {**schedule, "machine": machine(), "diagnoses": [], "policies": []}
    found = json.loads(args.json.read_text()) if args.json.exists() else empty

    def keep(part: str, row: dict[str, Any]) -> None:
        found[part].append(row)
        args.json.write_text(json.dumps(found, indent=1) + "\n")

    for bits in args.bits.split(";"):
        for method in args.methods.split(","):
            recipe = _recipe(method, *map(int, bits.split(",")))
            if not any(row["name"] == recipe.name for row in found["diagnoses"]):
                keep("diagnoses", one_diagnosis(recipe, args.work))
    truth = full_precision(args.images)
    for method in args.methods.split(","):
        recipe = _recipe(method, *map(int, args.policy.split(",")))
        for label, variant in variants(recipe, args):
            if not any((row["name"], row["kept"]) == (recipe.name, label) for row in found["policies"]):
                row = {"name": recipe.name, "kept": label} | one_policy(variant, truth, args.work)
                keep("policies", row)
                print(f"{recipe.name}, {label}: PSNR {row['psnr']:.2f} dB")


def _recipe(method: str, weights: int, activations: int) -> Recipe:
    calibration = {"samples": 32, "steps": STEPS}
    return tempoquant.method_recipe(method, weights=weights, activations=activations, calibration=calibration)


def folder_of(recipe: Recipe, work: Path) -> Path:
    return work / recipe.name.replace(" ", "-")


def quantized(recipe: Recipe, work: Path) -> QuantizedPipeline:
    """The model of ``recipe``, from its folder if it is there."""
    folder = folder_of(recipe, work)
    if folder.is_dir():
        return tempoquant.load(folder)
    return tempoquant.quantize(MODEL, recipe, out=folder, recording=work / "recording", resume=True)


def one_diagnosis(recipe: Recipe, work: Path) -> dict[str, Any]:
    """What a diagnosis says of temporal layers."""
    folder = folder_of(recipe, work)
    model = quantized(recipe, work)
    out = folder / "diagnosis"
    shown = RichProgress()
    options: dict[str, Any] = {"recording": work / "diagnosed", "progress": shown}
    d = Diagnosis.load(out) if out.is_dir() else diagnose(model, MODEL, out=out, **options)
    temporal = d.facts["temporal_layers"]
    ranks = {cost.name: i + 1 for i, cost in enumerate(d.culprits) if cost.name in temporal}
    return {
        "name": recipe.name,
        "psnr": float(d.psnr.mean()),
        "ratio": model.facts["size"]["ratio"],
        "projections": len(d.projections),
        "disturbed": list(d.disturbed),
        "cosine_min": float(d.feature_cosine.min()),
        "mismatch": d.mismatch,
        "temporal_ranks": ranks,
        "ranked": len(d.culprits),
        "deviation": dict(zip(("all", "temporal", "others"), d.deviations[:, -1].tolist(), strict=True)),
        "deviation_most": dict(zip(("all", "temporal", "others"), d.deviations.amax(1).tolist(), strict=True)),
        "policy": [entry["match"] for entry in d.policy],
        "step_ranges": {cost.name: cost.share for cost in d.step_ranges},
    }


def full_precision(images: int) -> Reference:
    """What every policy is judged by: images of other noise than the diagnosis saw."""
    return reference(resolve(MODEL), projections=(), samples=images, noise_samples=1, steps=STEPS, seed=JUDGED_SEED)


def variants(recipe: Recipe, args: argparse.Namespace) -> list[tuple[str, Recipe]]:
    """The recipe as it is, with the diagnosis's policy, and with random layers."""
    d = Diagnosis.load(folder_of(recipe, args.work) / "diagnosis")
    made = [("nothing", recipe), ("the diagnosis's layers", with_overrides(recipe, d.policy))]
    for draw in range(args.random):
        picks = torch.randperm(len(d.layers), generator=rng("random layers", draw))[: len(d.policy)]
        widths = {d.layers[i]: (recipe.weights.bits, recipe.activations.bits) for i in picks.tolist()}
        made.append((f"random layers {draw}", with_overrides(recipe, keep_higher(widths))))
    return made


def one_policy(recipe: Recipe, truth: Reference, work: Path) -> dict[str, Any]:
    """Quantize and judge."""
    model = tempoquant.quantize(MODEL, recipe, recording=work / "recording")
    metrics = compare(truth, model.model).to_dict()
    return {"psnr": metrics["psnr"]["mean"], "policy": [entry.match for entry in recipe.policy]}


if __name__ == "__main__":
    main()
