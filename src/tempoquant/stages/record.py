"""Recording the model's full-precision trajectories, which all later stages read."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tempoquant.intervals import Clock
from tempoquant.pipelines import Model
from tempoquant.progress import Progress
from tempoquant.recipe import Recipe
from tempoquant.recording import Store, record
from tempoquant.stages.stage import Stage
from tempoquant.stages.state import JobState


class Record(Stage):
    """Records trajectories, or opens those that are there; the clock has a row for each of their time steps."""

    name = "record"
    needs = ("reading",)
    gives = ("store", "clock")
    keeps = "recording"

    def run(self, state: JobState) -> None:
        """See :class:`Stage`."""
        folder = state.folders.of(self.keeps)
        state.store = record_trajectories(state.model, state.recipe, folder, state.progress, state.conditioning)
        time = state.reading.graph.time_argument
        state.clock = Clock(state.store.timesteps, time.position, time.name)


def record_trajectories(
    model: Model, recipe: Recipe, folder: Path, progress: Progress, conditioning: Mapping[str, Any] | None = None
) -> Store:
    """The full-precision recording that ``recipe`` asks for, made in ``folder`` unless it is there.

    Args:
        conditioning: as ``model.generate`` takes it.
    """
    calibration = recipe.calibration
    return record(
        model,
        folder,
        samples=calibration.samples,
        steps=calibration.steps,
        seed=recipe.seed,
        sampler=calibration.sampler,
        eta=calibration.eta,
        dtype=calibration.dtype,
        conditioning=conditioning,
        progress=progress,
    )
