"""What becomes of temporal features on the bundled model: TIAR and FSC, two caches and the choice, one recording.

    python benchmarks/temporal_cache_fashion32.py --work out/cache --json docs/results/temporal_cache.json

W4A8 and W8A8, DDIM 20 steps, 32 calibration trajectories, 16 paired images; also split shortcuts beside whole ones.
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
from tempoquant.stages import probe_of

MODEL, STEPS, IMAGES = "fashion32", 20, 16
VARIANTS = (
    ("tfmq-dm", False),
    ("tfmq-cache", False),
    ("tfmq-cache-int8", False),
    ("tfmq-select", False),
    ("tfmq-dm", True),
)
"""Methods, and whether shortcuts are split."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, required=True, help="recording, finished weights and folders")
    parser.add_argument("--json", type=Path, required=True, help="results")
    parser.add_argument("--threads", type=int, default=1)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    args.work.mkdir(parents=True, exist_ok=True)
    model = resolve(MODEL)
    graph = read_denoiser(probe_of(model, tempoquant.method_recipe("rtn", calibration={"steps": STEPS})))
    truth = reference(model, projections=graph.projections, samples=IMAGES, steps=STEPS, seed=1)
    rows = [one(name, bits, split, truth, args.work) for bits in (4, 8) for name, split in VARIANTS]
    schedule = {"sampler": "ddim", "steps": STEPS, "images": IMAGES, "seed": 1, "calibration_samples": 32}
    args.json.write_text(json.dumps({**schedule, "machine": machine(), "results": rows}, indent=1) + "\n")


def one(method: str, bits: int, split: bool, truth: Reference, work: Path) -> dict[str, Any]:
    """Quantize, save and judge."""
    recipe = tempoquant.method_recipe(method, weights=bits, calibration={"steps": STEPS, "samples": 32}).model_dump()
    recipe["weights"]["split_shortcuts"] = split
    name = f"{method} W{bits}A8" + " split" * split
    out = work / name.replace(" ", "-")
    quantized = tempoquant.quantize(
        MODEL, tempoquant.Recipe.parse(recipe), recording=work / "recording", out=out, overwrite=True
    )
    metrics = compare(truth, quantized.model)
    found = {
        "name": name,
        "psnr": metrics.to_dict()["psnr"]["mean"],
        "sqnr": metrics.sqnr,
        "temporal_cosine": metrics.cosine_mean,
        "temporal_cosine_min": metrics.cosine_min,
        "temporal_mismatch": metrics.temporal_mismatch,
        "size": quantized.facts["size"],
        "seconds_by_stage": quantized.facts["timings"],
    }
    print(json.dumps({k: v for k, v in found.items() if k != "seconds_by_stage"}), flush=True)
    return found


if __name__ == "__main__":
    main()
