"""Tuning all that is not integers, of the whole denoiser, against full precision's predictions."""

from tempoquant.recipe import Recipe
from tempoquant.reconstruction import Tuner
from tempoquant.stages.stage import Stage
from tempoquant.stages.state import JobState


class Tuning(Stage):
    """Tunes the denoiser as a whole."""

    name = "tuning"
    needs = ("denoiser", "store")
    keeps = "tuning"

    def applies(self, recipe: Recipe) -> bool:
        """Whether the recipe has settings for it."""
        return recipe.tuning is not None

    def run(self, state: JobState) -> None:
        """See :class:`Stage`."""
        recipe, full = state.recipe, state.model.denoiser
        assert recipe.tuning is not None
        cache = state.cache(self.keeps)
        Tuner(state.denoiser, full, state.store, recipe.tuning, recipe.seed, cache, state.progress).run()
