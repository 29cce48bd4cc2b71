"""Replacing temporal layers by tables of what they put out at every time step."""

import torch
from torch import Tensor

from tempoquant.recipe import Recipe
from tempoquant.stages.stage import Stage
from tempoquant.stages.state import JobState
from tempoquant.temporal import cache_features


class CachedFeatures(Stage):
    """Caches temporal features; after all that runs two streams, which tables have no rows for."""

    name = "cached features"
    needs = ("temporal", "clock", "store", "denoiser")

    def applies(self, recipe: Recipe) -> bool:
        """Whether features are cached, where the denoiser allows it."""
        return recipe.temporal.cache is not None

    def run(self, state: JobState) -> None:
        """See :class:`Stage`."""
        temporal = state.temporal
        cache_features(
            state.module,
            temporal.program,
            temporal.externals,
            state.clock,
            state.recipe.temporal,
            lambda: first_prediction(state),
        )


def first_prediction(state: JobState) -> Tensor:
    """The quantized denoiser's prediction of the first recorded input, (1, *sample_shape)."""
    first = torch.zeros(1, dtype=torch.long)
    sample, timestep, conditioning = state.store.read(first, first)
    return state.denoiser(sample, timestep, **conditioning)
