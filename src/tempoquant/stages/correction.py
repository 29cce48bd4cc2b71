"""Measuring what corrects the quantized denoiser's predictions while sampling (PTQD), and choosing step-wise bits."""

from typing import Any

from tempoquant.correction import (
    Trajectories,
    compare_predictions,
    correction_tables,
    quantization_noise,
    set_step_bits,
)
from tempoquant.recipe import Recipe
from tempoquant.stages.stage import Stage
from tempoquant.stages.state import JobState

DIGITS = 6
"""Significant digits of what is measured."""


class Correction(Stage):
    """Chooses step-wise bits, and measures the correction that the recipe names.

    Both are measured on full-precision trajectories of the recipe's schedule, from noise that calibrated nothing:
    rounding fits the recorded inputs better than any others.
    """

    name = "correction"
    needs = ("reading", "clock", "denoiser")

    def applies(self, recipe: Recipe) -> bool:
        """Whether the recipe has settings for it."""
        return recipe.correction is not None

    def run(self, state: JobState) -> None:
        """See :class:`Stage`."""
        correction = state.recipe.correction
        assert correction is not None
        trajectories = _trajectories(state)
        state.measured = {"samples": len(trajectories.indices), "timesteps": state.clock.timesteps.tolist()}
        if correction.step_bits:
            state.measured["steps"] = _choose_step_bits(state, trajectories)
        if correction.kind == "none":
            return
        pair = state.model, state.model.with_module(state.module)
        (sums,) = compare_predictions(*pair, state.clock, trajectories, [lambda: None], state.progress)
        noise = quantization_noise(sums)
        by_row = {"k": noise.k, "r2": noise.r2, "variance": noise.variance, "snr": sums.snr()}
        state.measured |= {name: [float(f"{x:.{DIGITS}g}") for x in values] for name, values in by_row.items()}
        state.correction = correction_tables(sums, correction.kind)


def _trajectories(state: JobState) -> Trajectories:
    """Full-precision trajectories of the recipe's schedule, with sample indices beyond those of the recording."""
    correction, calibration = state.recipe.correction, state.recipe.calibration
    assert correction is not None
    count = min(correction.samples, calibration.samples)
    run = {
        "steps": calibration.steps,
        "seed": state.recipe.seed,
        "sampler": calibration.sampler,
        "eta": calibration.eta,
    }
    indices = range(calibration.samples, calibration.samples + count)
    return Trajectories(indices, run, state.conditioning)


def _choose_step_bits(state: JobState, trajectories: Trajectories) -> dict[str, Any]:
    correction, recipe = state.recipe.correction, state.recipe
    assert correction is not None
    candidates = correction.step_bits
    plans = [state.reading.plans(recipe.with_activation_bits(bits)) for bits in candidates]
    widths = {name: [plan[name].activation_bits for plan in plans] for name in plans[0]}
    pair = state.model, state.model.with_module(state.module)
    return set_step_bits(*pair, state.clock, trajectories, candidates, widths, state.progress)
