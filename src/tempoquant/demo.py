"""The demonstration: the bundled model at several bit widths, quantized by three methods, side by side."""

import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from tempoquant.api import quantize
from tempoquant.evaluation import Reference, compare, reference, save_grid
from tempoquant.graph import read_denoiser
from tempoquant.methods import method_recipe
from tempoquant.pipelines import Model, resolve, to_images
from tempoquant.progress import Progress
from tempoquant.recipe import Recipe
from tempoquant.stages import probe_of

MODEL = "fashion32"
STEPS = 20
WIDTHS = ((8, 8), (4, 8), (4, 6))
METHODS = ("rtn", "tfmq-dm", "tempo-fast")
SHOWN = 10


@dataclass(frozen=True)
class DemoRow:
    """One quantized model of the demonstration."""

    recipe: Recipe
    images: Tensor
    facts: dict[str, Any]
    metrics: dict[str, Any]
    seconds: float

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON data, without the images."""
        size = {"bytes": self.facts["size"]["total"], "ratio": self.facts["size"]["ratio"]}
        name, recipe = self.recipe.name, self.recipe.model_dump(mode="json")
        return {"name": name, "size": size, "seconds": self.seconds, "metrics": self.metrics, "recipe": recipe}


def run_demo(out: Path, *, calibration_samples: int, images: int, seed: int, progress: Progress) -> Iterator[DemoRow]:
    """Quantize the bundled model at every width with every method, one row at a time.

    Args:
        out: an empty folder, for the quantized folders and the picture ``samples.png``.
        calibration_samples: recorded trajectories, shared by all rows.
        images: paired images that rows are compared on.
        seed: of calibration; images are drawn with ``seed + 1``.
        progress: where it is shown.
    """
    full = resolve(MODEL)
    reference_run = _reference(full, images, seed + 1, progress)
    picture = {"full precision": to_images(reference_run.images[:SHOWN])}
    calibration = {"samples": calibration_samples, "steps": STEPS}
    with tempfile.TemporaryDirectory(prefix="tempoquant-") as work:
        for weights, activations in WIDTHS:
            for method in METHODS:
                options: dict[str, Any] = {"calibration": calibration, "seed": seed}
                recipe = method_recipe(method, weights=weights, activations=activations, **options)
                row = _row(full, reference_run, recipe, (out, Path(work)), progress)
                picture[row.recipe.name] = to_images(row.images[:SHOWN])
                yield row
    save_grid(picture, out / "samples.png")


def _reference(full: Model, images: int, seed: int, progress: Progress) -> Reference:
    probe = probe_of(full, method_recipe("rtn", calibration={"steps": STEPS}))
    projections = read_denoiser(probe).projections
    few = min(8, images)
    return reference(
        full, projections=projections, samples=images, noise_samples=few, steps=STEPS, seed=seed, progress=progress
    )


def _row(
    full: Model, reference_run: Reference, recipe: Recipe, places: tuple[Path, Path], progress: Progress
) -> DemoRow:
    """Quantize and compare one row; ``places`` are where models are kept, and where rows share their work."""
    out, work = places
    start = time.perf_counter()
    # Weights depend on the method and their bits alone, so rows that differ in activations share them.
    units = work / f"{recipe.method} W{recipe.weights.bits}"
    quantized = quantize(full, recipe, recording=work / "recording", units=units, progress=progress)
    seconds = time.perf_counter() - start
    quantized.save_pretrained(out / recipe.name.replace(" ", "-"))
    metrics = compare(reference_run, quantized.model, progress=progress)
    assert metrics.images is not None
    return DemoRow(recipe, metrics.images, quantized.facts, metrics.to_dict(), seconds)
