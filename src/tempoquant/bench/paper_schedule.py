"""What a method would take at the papers' own schedule, from a few of its iterations."""

import tempfile
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from tempoquant.bench.seconds import Kind, noted
from tempoquant.job import run_job
from tempoquant.pipelines import Model, conditioning_in_float32
from tempoquant.progress import Progress
from tempoquant.recipe import FLOAT_BITS, Recipe
from tempoquant.reconstruction import Effort, effort
from tempoquant.stages import WorkFolders
from tempoquant.stopwatch import Stopwatch

FEW, MORE = 2, 12
"""Iterations of every unit in the two trials."""


def paper_seconds(
    model: Model,
    recipe: Recipe,
    recording: Path,
    conditioning: Mapping[str, Any] | None,
    progress: Progress,
) -> dict[str, Any]:
    """Estimate the seconds that ``recipe`` would take at ``effort: paper``.

    The whole job runs twice with the settings of that effort (batches of 32 rows, rounding from the weights themselves)
    but for the iterations of every unit, of the temporal block and of activation steps: these are few in one trial and
    some more in the other. What the other takes longer is the time of the iterations between, so a stage of ``n``
    iterations takes ``few + (n - FEW) (more - few) / (MORE - FEW)``. Stages that do not learn count as in the second
    trial, and the recording as it was when it was made. So everything is measured, on this machine, model and
    calibration, but for the number of iterations.

    Args:
        model: in float32.
        recipe: to estimate.
        recording: of the recipe, finished.
        conditioning: that it was recorded with.
        progress: where it is shown.

    Returns:
        ``cpu_seconds`` and ``seconds`` by stage, and the ``iterations`` of both trials.
    """
    paper = effort("paper")
    trials = [_trial(model, recipe, recording, conditioning, progress, _cut(paper, few)) for few in (FEW, MORE)]
    goals = {
        "units": paper.iterations,
        "temporal features": paper.temporal_iterations,
        "activation steps": paper.steps.iterations,
    }
    estimate: dict[str, Any] = {"iterations": [FEW, MORE]}
    kinds: dict[Kind, list[dict[str, float]]] = {
        "seconds": [trial.wall for trial in trials],
        "cpu_seconds": [trial.cpu for trial in trials],
    }
    for kind, (few, more) in kinds.items():
        stages = {stage: extrapolated(few[stage], more[stage], goals.get(stage)) for stage in more}
        estimate[kind] = {**stages, **(noted(recording, kind) or {"record": None})}
    return estimate


def time_entries(recipe: Recipe) -> dict[str, Any]:
    """The entries that decide how long a recipe takes at that effort: narrow activations take as long as wide ones."""
    entries = recipe.model_dump(mode="json", exclude={"effort", "policy"}, exclude_defaults=True)
    alike = {"bits": FLOAT_BITS if recipe.activations.bits == FLOAT_BITS else 8}
    kept = [(override.match, override.weight_bits) for override in recipe.policy if override.weight_bits is not None]
    return {**entries, "activations": {**entries.get("activations", {}), **alike}, "kept": kept}


def extrapolated(few: float, more: float, iterations: int | None) -> float:
    """The seconds of a stage of ``iterations`` from those of ``FEW`` and of ``MORE``; None: it does not learn."""
    if iterations is None:
        return more
    return round(few + (iterations - FEW) * max(0.0, more - few) / (MORE - FEW), 3)


def _cut(paper: Effort, iterations: int) -> Effort:
    steps = replace(paper.steps, iterations=iterations)
    return replace(paper, iterations=iterations, temporal_iterations=iterations, steps=steps)


def _trial(
    model: Model,
    recipe: Recipe,
    recording: Path,
    conditioning: Mapping[str, Any] | None,
    progress: Progress,
    settings: Effort,
) -> Stopwatch:
    with tempfile.TemporaryDirectory(prefix="tempoquant-") as work, torch.inference_mode(False):
        folders = WorkFolders(Path(work), recording)
        return run_job(model, recipe, folders, progress, conditioning_in_float32(conditioning), settings).watch
