"""Quality against time of weight reconstruction on the bundled model: what ``balanced`` buys over ``fast``.

    python benchmarks/effort_curve.py --json docs/results/effort_curve.json --figure docs/results/effort_curve.png

Weights at 4 bits, activations in float, so that nothing hides the difference. Every point is a whole weight stage.
"""

import argparse
import json
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import matplotlib
import torch

import tempoquant
from tempoquant.checkpoint.evidence import machine
from tempoquant.evaluation import Reference, compare, reference
from tempoquant.graph import read_denoiser
from tempoquant.job import probe_of
from tempoquant.pipelines import resolve
from tempoquant.reconstruction.effort import EFFORTS

matplotlib.use("Agg")
import matplotlib.pyplot as plt

MODEL, STEPS = "fashion32", 20
COMPENSATED, PLAIN = (0, 50, 100, 200, 400), (50, 200, 400)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, required=True)
    parser.add_argument("--figure", type=Path, required=True)
    parser.add_argument("--images", type=int, default=16)
    parser.add_argument("--threads", type=int, default=2)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    model = resolve(MODEL)
    graph = read_denoiser(probe_of(model, tempoquant.method_recipe("rtn", calibration={"steps": STEPS})))
    truth = reference(model, projections=graph.projections, samples=args.images, steps=STEPS, seed=1)
    with tempfile.TemporaryDirectory() as work:
        points = [point("rtn", None, 0, truth, Path(work))]
        points += [point("error-compensated start", True, n, truth, Path(work)) for n in COMPENSATED]
        points += [point("start at the weight", False, n, truth, Path(work)) for n in PLAIN]
    found = {"model": MODEL, "bits": "W4A32", "images": args.images, "steps": STEPS, "machine": machine()}
    args.json.write_text(json.dumps(found | {"points": points}, indent=1) + "\n")
    draw(points, args.figure)


def point(curve: str, compensate: bool | None, iterations: int, truth: Reference, work: Path) -> dict[str, Any]:
    """One weight stage and its quality."""
    method = "rtn" if compensate is None else "tfmq-dm"
    if compensate is not None:
        # The curve's settings stand in for a named effort, for this process only.
        settings = EFFORTS["balanced"]
        EFFORTS["balanced"] = replace(settings, compensate=compensate, iterations=iterations)
    recipe = tempoquant.method_recipe(
        method,
        weights=4,
        activations=32,
        effort="balanced",
        attention={"quantize": False},
        calibration={"steps": STEPS},
    )
    quantized = tempoquant.quantize(MODEL, recipe, recording=work / "recording")
    if compensate is not None:
        EFFORTS["balanced"] = settings
    metrics = compare(truth, quantized.target)
    timings = quantized.facts["timings"]
    seconds = timings["units"] + timings["temporal features"]
    row = {"curve": curve, "iterations": iterations, "seconds": seconds, "sqnr": metrics.sqnr}
    print(row | {"psnr": metrics.to_dict()["psnr"]["mean"]})
    return row | {"psnr": metrics.to_dict()["psnr"]["mean"]}


def draw(points: list[dict[str, Any]], path: Path) -> None:
    """SQNR over seconds, a line a start."""
    figure, axes = plt.subplots(figsize=(7, 4.2), layout="constrained")
    for curve, marker in (("error-compensated start", "o"), ("start at the weight", "s"), ("rtn", "x")):
        rows = [p for p in points if p["curve"] == curve]
        axes.plot([p["seconds"] for p in rows], [p["sqnr"] for p in rows], marker=marker, label=curve)
        for p in rows:
            offset = (p["seconds"], p["sqnr"])
            axes.annotate(str(p["iterations"]), offset, textcoords="offset points", xytext=(4, 6), fontsize=8)
    axes.set_xlabel("weight stage, seconds (numbers: iterations a unit)")
    axes.set_ylabel("SQNR of predicted noise, dB")
    axes.set_title("fashion32, W4A32: quality against time")
    axes.legend(loc="lower right")
    axes.grid(alpha=0.3)
    figure.savefig(path, dpi=140)


if __name__ == "__main__":
    main()
