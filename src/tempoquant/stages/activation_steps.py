"""Learning the step sizes of all activations, unit after unit, against the units' full-precision outputs."""

from tempoquant.recipe import Recipe
from tempoquant.reconstruction import StepState, learn_activation_steps
from tempoquant.stages.stage import Stage
from tempoquant.stages.state import JobState
from tempoquant.stages.units import stage_units, two_streams


class ActivationSteps(Stage):
    """Learns step sizes, or the networks of the time step that give them."""

    name = "activation steps"
    needs = ("weights", "attention", "clock", "store", "denoiser")
    keeps = "steps"

    def applies(self, recipe: Recipe) -> bool:
        """Whether step sizes learn."""
        return recipe.activations.learn

    def run(self, state: JobState) -> None:
        """See :class:`Stage`."""
        weights, cache = state.weights, state.cache(self.keeps)
        learning = StepState(weights, state.attention, state.clock, state.train_timesteps, cache)
        units = stage_units(weights, state.recipe.temporal.calibration)
        learn_activation_steps(learning, units, *two_streams(weights, state.denoiser, state.store))
