"""Reading the denoiser: its graph, what happens to each layer, how much of it is quantized."""

from collections.abc import Mapping
from typing import Any

import torch

from tempoquant.graph import Probe
from tempoquant.pipelines import Model, condition_variants
from tempoquant.planning import coverage_of, read, warn_of_float
from tempoquant.recipe import Recipe
from tempoquant.stages.stage import Stage
from tempoquant.stages.state import JobState

PROBED = 3
"""Time steps at which the denoiser is run."""


class Read(Stage):
    """Reads the graph of the model, and decides what the recipe leaves to it."""

    name = "read"
    gives = ("probe", "reading", "coverage", "plans")

    def run(self, state: JobState) -> None:
        """See :class:`Stage`; warns where much stays float."""
        state.probe = probe_of(state.model, state.recipe, state.conditioning)
        state.reading = read(state.probe, state.recipe)
        state.recipe = state.reading.recipe
        state.plans = state.reading.plans(state.recipe)
        state.coverage = coverage_of(state.probe, state.reading)
        warn_of_float(state.coverage)


def probe_of(model: Model, recipe: Recipe, conditioning: Mapping[str, Any] | None = None) -> Probe:
    """How the graph reader may run the denoiser: at three time steps of the recipe's own schedule.

    Args:
        conditioning: as ``model.generate`` takes it.
    """
    calibration, sized = recipe.calibration, model.for_conditioning(conditioning)
    schedule: dict[str, Any] = {"steps": calibration.steps, "sampler": calibration.sampler}
    steps = sized.timesteps(**schedule, conditioning=conditioning).unique()
    picked = steps[torch.linspace(0, len(steps) - 1, min(PROBED, len(steps))).long()].tolist()
    if len(picked) < PROBED:
        last = sized.denoiser.scheduler.config.num_train_timesteps - 1
        # Time steps of at most 1 are shares of the training schedule.
        shares = steps.is_floating_point() and picked[-1] <= 1
        picked = sorted({*picked, *((0.0, picked[-1] / 2) if shares else (0, last // 2, last))})
    variants = condition_variants(sized, conditioning, seed=recipe.seed, eta=calibration.eta, **schedule)
    return Probe(sized.denoiser.module, sized.denoiser, sized.denoiser.sample_shape, tuple(picked), variants)
