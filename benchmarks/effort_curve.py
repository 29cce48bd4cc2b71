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
from tempoquant.pipelines import resolve
from tempoquant.reconstruction.effort import EFFORTS
from tempoquant.stages import probe_of

matplotlib.use("Agg")
import matplotlib.pyplot as plt

MODEL, STEPS = "fashion32", 20


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, required=True)
    parser.add_argument("--figure", type=Path, required=True)
    parser.add_argument("--images", type=int, default=16)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--compensated", default="0,50,100,200,400", help="iterations after the compensated start")
    parser.add_argument("--plain", default="50,200,400", help="iterations from the weight itself")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    todo: list[tuple[str, bool | None, int]] = [("rtn", None, 0)]
    todo += [("error-compensated start", True, int(n)) for n in args.compensated.split(",")]
    todo += [("start at the weight", False, int(n)) for n in args.plain.split(",")]
    model = resolve(MODEL)
    graph = read_denoiser(probe_of(model, tempoquant.method_recipe("rtn", calibration={"steps": STEPS})))
    truth = reference(model, projections=graph.projections, samples=args.images, steps=STEPS, seed=1)
    found = {"model": MODEL, "bits": "W4A32", "images": args.images, "steps": STEPS, "machine": machine()}
    points: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as work:
        for curve, compensate, iterations in todo:
            points.append(point(curve, compensate, iterations, truth, Path(work)))
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
    metrics = compare(truth, quantized.model)
    timings = quantized.facts["timings"]
    seconds = timings["units"] + timings["temporal features"]
    row = {"curve": curve, "iterations": iterations, "seconds": seconds, "sqnr": metrics.sqnr}
    print(row | {"psnr": metrics.to_dict()["psnr"]["mean"]})
    return row | {"psnr": metrics.to_dict()["psnr"]["mean"]}


def draw(points: list[dict[str, Any]], path: Path) -> None:
    """SQNR and PSNR over seconds, a line a start."""
    figure, panels = plt.subplots(1, 2, figsize=(10, 4.2), layout="constrained")
    measures = (("sqnr", "SQNR of predicted noise, dB"), ("psnr", "PSNR of images, dB"))
    for axes, (key, label) in zip(panels, measures, strict=True):
        for curve, marker in (("error-compensated start", "o"), ("start at the weight", "s"), ("rtn", "x")):
            rows = [p for p in points if p["curve"] == curve]
            axes.plot([p["seconds"] for p in rows], [p[key] for p in rows], marker=marker, label=curve)
            for p in rows:
                place = (p["seconds"], p[key])
                axes.annotate(str(p["iterations"]), place, textcoords="offset points", xytext=(4, 6), fontsize=8)
        axes.set_xlabel("weight stage, seconds (numbers: iterations a unit)")
        axes.set_ylabel(label)
        axes.grid(alpha=0.3)
    panels[0].legend(loc="lower right")
    figure.suptitle("fashion32, W4A32: quality against time")
    figure.savefig(path, dpi=140)


if __name__ == "__main__":
    main()
