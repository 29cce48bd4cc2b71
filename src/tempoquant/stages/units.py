"""Reconstructing the weights of all units in order of execution, in one pass over recorded inputs."""

from collections.abc import Callable, Mapping
from typing import Any

import torch

from tempoquant.graph import Unit
from tempoquant.planning import LayerPlan
from tempoquant.recipe import Recipe
from tempoquant.reconstruction import WeightState, doubled, reconstruct_units, round_nearest
from tempoquant.recording import Store, reconstruction_rows
from tempoquant.sampling import Denoiser
from tempoquant.stages.stage import Stage
from tempoquant.stages.state import JobState


class Units(Stage):
    """Rounds the weights of all layers that are still float: unit after unit, or to nearest."""

    name = "units"
    needs = ("weights", "store", "denoiser")
    keeps = "units"

    def run(self, state: JobState) -> None:
        """See :class:`Stage`."""
        round_units(state.weights, state.denoiser, state.store)


def round_units(weights: WeightState, denoiser: Denoiser, store: Store) -> None:
    """Round the weights of all layers that are still float, in place.

    Args:
        denoiser: whose layers they are.
        store: its recording.
    """
    units = stage_units(weights, weights.recipe.temporal.reconstruction)
    in_units = {name for unit in units for name in unit.layers}
    left = [name for name, layer in weights.layers.items() if layer.weight_scale is None]
    if weights.recipe.weights.rounding == "nearest":
        round_nearest(weights, left)
        return
    round_nearest(weights, [name for name in left if name not in in_units])
    reconstruct_units(weights, units, *two_streams(weights, denoiser, store))


def two_streams(weights: WeightState, denoiser: Denoiser, store: Store) -> tuple[Callable[[], Any], int]:
    """One pass over the recipe's reconstruction rows, every row twice; and how many rows that makes."""
    sample, timestep, conditioning = store.read(*reconstruction_rows(store, weights.recipe))
    rows, twice = (doubled(sample), doubled(timestep)), doubled(conditioning)
    return lambda: denoiser(*rows, **twice), rows[1].shape[0]


def stage_units(weights: WeightState, temporal: str) -> list[Unit]:
    """The units to reconstruct, in order of execution; where ``temporal`` is "block" temporal layers belong to theirs.

    Args:
        temporal: an entry of the recipe: ``temporal.reconstruction`` or ``temporal.calibration``.
    """
    units = list(weights.graph.units)
    if temporal != "block":
        return units
    order = {layer.name: layer.order for layer in weights.graph.layers}
    loose = [name for name, plan in weights.plans.items() if plan.temporal and name in weights.layers]
    for i, unit in enumerate(units):
        inside = [name for name in loose if name.startswith(unit.name + ".")]
        loose = [name for name in loose if name not in inside]
        units[i] = Unit(unit.name, tuple(sorted([*unit.layers, *inside], key=order.__getitem__)))
    units += [Unit(name, (name,)) for name in loose]
    return sorted(units, key=lambda unit: min(order[name] for name in unit.layers))


def unit_identity(store: Store, recipe: Recipe, plans: Mapping[str, LayerPlan]) -> dict[str, Any]:
    """Everything that finished weights depend on, as plain JSON data; activation settings are not among it."""
    entries = recipe.model_dump(mode="json", include={"effort", "weights", "seed", "transforms", "stages"})
    return entries | {
        "temporal reconstruction": recipe.temporal.reconstruction,
        "reconstruction rows": recipe.calibration.model_dump(include={"rows", "step_choice", "step_mean", "step_std"}),
        "weight bits": {name: plan.weight_bits for name, plan in plans.items()},
        "recording": store.request,
        "thread count": torch.get_num_threads(),
    }
