"""The weight stage from a recipe: which layers round, in which units, on which recorded rows."""

from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from tempoquant.graph import DenoiserGraph, Unit
from tempoquant.layers import install_layers
from tempoquant.planning import LayerPlan
from tempoquant.progress import Progress
from tempoquant.recipe import FLOAT_BITS, Recipe
from tempoquant.reconstruction.cache import UnitCache
from tempoquant.reconstruction.effort import Effort
from tempoquant.reconstruction.lockstep import doubled
from tempoquant.reconstruction.tiar import tiar
from tempoquant.reconstruction.weights import WeightStage, reconstruct_units, round_nearest
from tempoquant.recording import Store, reconstruction_rows
from tempoquant.sampling import Denoiser
from tempoquant.temporal import TemporalProgram


def unit_identity(store: Store, recipe: Recipe, plans: dict[str, LayerPlan]) -> dict[str, Any]:
    """Everything that finished weights depend on; activation settings are not among it."""
    entries = recipe.model_dump(mode="json", include={"effort", "weights", "seed"})
    return entries | {
        "temporal reconstruction": recipe.temporal.reconstruction,
        "reconstruction rows": recipe.calibration.model_dump(include={"rows", "step_choice", "step_mean", "step_std"}),
        "weight bits": {name: plan.weight_bits for name, plan in plans.items()},
        "recording": store.request,
        "thread count": torch.get_num_threads(),
    }


def weight_stage(
    module: nn.Module,
    graph: DenoiserGraph,
    recipe: Recipe,
    effort: Effort,
    plans: dict[str, LayerPlan],
    cache: UnitCache,
    progress: Progress,
) -> WeightStage:
    """Make the planned layers of ``module`` quantizable, and gather what the weight stage needs."""
    names = [n for n, p in plans.items() if (p.weight_bits, p.activation_bits) != (FLOAT_BITS, FLOAT_BITS)]
    layers = install_layers(module, names)
    full = {name: layer.weight.detach() for name, layer in layers.items()}
    biases = {name: layer.bias for name, layer in layers.items()}
    return WeightStage(module, graph, recipe, effort, dict(layers), plans, full, biases, cache, progress)


def reconstruct_temporal(stage: WeightStage, program: TemporalProgram, externals: dict[str, torch.Tensor]) -> None:
    """Round the temporal layers before all others, in the way the recipe names."""
    names = [n for n in program.layers if n in stage.layers and stage.quantizes(n)]
    how = stage.recipe.temporal.reconstruction
    if stage.recipe.weights.rounding == "nearest" or how == "nearest":
        round_nearest(stage, names)
    elif how == "tiar" and names and not stage.restore("temporal"):
        grids = {name: stage.grid(name) for name in names}
        layers: dict[str, Any] = {n: stage.module.get_submodule(n) for n in program.layers}
        weights = {n: stage.full[n] if n in stage.full else layers[n].weight for n in program.layers}
        tiar(program, externals, layers, weights, grids, stage.effort, stage.recipe.seed, stage.progress)
        stage.keep("temporal", names)


def reconstruct_image_layers(stage: WeightStage, denoiser: Denoiser, store: Store) -> None:
    """Round all other layers: unit after unit in one pass over recorded inputs, or to nearest."""
    units = stage_units(stage, stage.recipe.temporal.reconstruction)
    in_units = {name for unit in units for name in unit.layers}
    rest = [n for n in stage.layers if n not in in_units and stage.layers[n].weight_scale is None]
    if stage.recipe.weights.rounding == "nearest":
        round_nearest(stage, [n for n in stage.layers if stage.layers[n].weight_scale is None])
        return
    round_nearest(stage, rest)
    reconstruct_units(stage, units, *two_streams(stage, denoiser, store))


def two_streams(stage: WeightStage, denoiser: Denoiser, store: Store) -> tuple[Callable[[], Any], int]:
    """One pass over the recipe's reconstruction rows, every row twice; and how many rows that makes."""
    sample, timestep, conditioning = store.read(*reconstruction_rows(store, stage.recipe))
    rows, twice = (doubled(sample), doubled(timestep)), doubled(conditioning)
    return lambda: denoiser(*rows, **twice), rows[1].shape[0]


def stage_units(stage: WeightStage, temporal: str) -> list[Unit]:
    """The units to reconstruct; where ``temporal`` is "block" temporal layers belong to theirs."""
    units = list(stage.graph.units)
    if temporal != "block":
        return units
    order = {layer.name: layer.order for layer in stage.graph.layers}
    loose = [name for name, plan in stage.plans.items() if plan.temporal and name in stage.layers]
    for i, unit in enumerate(units):
        inside = [name for name in loose if name.startswith(unit.name + ".")]
        loose = [name for name in loose if name not in inside]
        units[i] = Unit(unit.name, tuple(sorted([*unit.layers, *inside], key=order.__getitem__)))
    units += [Unit(name, (name,)) for name in loose]
    return sorted(units, key=lambda unit: min(order[name] for name in unit.layers))
