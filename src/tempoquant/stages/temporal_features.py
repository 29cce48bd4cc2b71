"""Temporal information aware reconstruction: the layers that see only the time step, rounded before all others."""

from typing import Any

from tempoquant.reconstruction import UnitCache, WeightState, round_nearest, tiar
from tempoquant.stages.stage import Stage
from tempoquant.stages.state import JobState, TemporalInputs
from tempoquant.stages.units import unit_identity
from tempoquant.temporal import most_conditions, temporal_inputs, temporal_program

KEY = "temporal"
"""The finished block's name among finished units."""


class TemporalFeatures(Stage):
    """Reads the temporal information block as a program, and rounds its layers in the way the recipe names."""

    name = "temporal features"
    needs = ("probe", "reading", "plans", "store", "clock", "denoiser", "layers")
    gives = ("weights", "temporal")
    keeps = "units"

    def run(self, state: JobState) -> None:
        """See :class:`Stage`."""
        graph, recipe = state.reading.graph, state.recipe
        cache = UnitCache(state.folders.of(self.keeps), unit_identity(state.store, recipe, state.plans))
        state.weights = WeightState(
            state.module, graph, recipe, state.settings, state.layers, state.plans, cache, state.progress
        )
        program = temporal_program(state.probe, graph)
        externals, rows = temporal_inputs(program, state.store, state.clock, most_conditions(graph), recipe.seed)
        state.temporal = TemporalInputs(program, externals, rows)
        round_temporal_layers(state.weights, state.temporal)


def round_temporal_layers(weights: WeightState, temporal: TemporalInputs) -> None:
    """Round the weights of the temporal layers in place, unless they belong to the units of their blocks."""
    program, recipe = temporal.program, weights.recipe
    names = [name for name in program.layers if name in weights.layers and weights.quantizes(name)]
    how = recipe.temporal.reconstruction
    if recipe.weights.rounding == "nearest" or how == "nearest":
        round_nearest(weights, names)
    elif how == "tiar" and names and not weights.restore(KEY):
        grids = {name: weights.grid(name) for name in names}
        layers: dict[str, Any] = {name: weights.module.get_submodule(name) for name in program.layers}
        full = {name: weights.full[name] if name in weights.full else layers[name].weight for name in program.layers}
        tiar(program, temporal.externals, layers, full, grids, weights.effort, recipe.seed, weights.progress)
        weights.keep(KEY, names)
