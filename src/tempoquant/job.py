"""The main job: read the denoiser, record it, round its weights, calibrate its activations."""

import copy
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from tempoquant.calibration.activations import calibrate_activations
from tempoquant.calibration.conditions import most_conditions, temporal_inputs
from tempoquant.calibration.finite_set import finite_set_calibration
from tempoquant.calibration.recorder import record
from tempoquant.calibration.store import Store
from tempoquant.calibration.temporal_cache import cache_features
from tempoquant.checkpoint import Blueprint
from tempoquant.correction import (
    CorrectionTables,
    Trajectories,
    compare_predictions,
    correction_tables,
    quantization_noise,
    set_step_bits,
)
from tempoquant.graph import DenoiserGraph, Probe, TemporalProgram, Unit, read_denoiser, temporal_program
from tempoquant.intervals import Clock
from tempoquant.layers import install_attention, install_layers, install_splits
from tempoquant.pipelines import Denoiser, Target, build_scheduler, condition_variants, set_steps
from tempoquant.progress import Progress
from tempoquant.randomness import generator
from tempoquant.recipe import FLOAT_BITS, Recipe
from tempoquant.reconstruction.cache import UnitCache
from tempoquant.reconstruction.effort import effort
from tempoquant.reconstruction.lockstep import doubled
from tempoquant.reconstruction.plan import LayerPlan, plan_layers
from tempoquant.reconstruction.split import shortcut_splits, split_graph, split_plans
from tempoquant.reconstruction.tiar import tiar
from tempoquant.reconstruction.weights import WeightStage, reconstruct_units, round_nearest


@dataclass
class Quantized:
    """A quantized denoiser, and what is known of it.

    Attributes:
        module: the module; its clock is attached.
        graph: what was read from the original, split layers as their parts. timings: seconds by stage.
        correction: of its noise predictions, or None. measured: what was found for it, by time step: plain JSON data.
    """

    module: nn.Module
    blueprint: Blueprint
    clock: Clock
    graph: DenoiserGraph
    timings: dict[str, float] = field(default_factory=dict)
    correction: CorrectionTables | None = None
    measured: dict[str, Any] | None = None


def run_job(
    target: Target,
    recipe: Recipe,
    units: Path,
    recording: Path,
    progress: Progress,
    conditioning: Mapping[str, Any] | None = None,
) -> Quantized:
    """Quantize ``target``'s denoiser.

    Args:
        conditioning: as ``target.generate`` takes it, for the recipe's calibration samples.
        units: the folder of finished weights, made or continued.
        recording: the folder of the recorded trajectories, made or continued unless it is complete.
    """
    timings: dict[str, float] = {}
    probe = probe_of(target, recipe, conditioning)
    with _timed(timings, "read"):
        graph = read_denoiser(probe)
        plans = plan_layers(graph, recipe)
        splits = shortcut_splits(probe.module, graph, plans) if recipe.weights.split_shortcuts else {}
        graph, plans = split_graph(graph, splits), split_plans(plans, splits)
    with _timed(timings, "record"):
        store = record_trajectories(target, recipe, recording, progress, conditioning)
    clock = Clock(store.timesteps, graph.time_argument.position, graph.time_argument.name)
    module = copy.deepcopy(target.denoiser.module).eval().requires_grad_(False)
    install_splits(module, splits)
    denoiser = replace(target.denoiser, module=module)
    stage = weight_stage(module, graph, recipe, plans, UnitCache(units, unit_identity(store, recipe, plans)), progress)
    attention = install_attention(module, graph.attention) if recipe.attention.quantize else {}
    with _timed(timings, "temporal features"):
        program = temporal_program(probe, graph)
        externals, rows = temporal_inputs(program, store, clock, most_conditions(graph), recipe.seed)
        reconstruct_temporal(stage, program, externals)
    with _timed(timings, "units"):
        reconstruct_image_layers(stage, denoiser, store)
    clock.attach(module)
    with _timed(timings, "activations"):
        bits = {n: p.activation_bits for n, p in plans.items() if n in stage.layers}
        temporal = {n: b for n, b in bits.items() if plans[n].temporal and b != FLOAT_BITS}
        per_step = recipe.temporal.calibration == "finite-set"
        block = {n: module.get_submodule(n) for n in program.layers}
        finite_set_calibration(program, externals, rows, clock, block, temporal, per_step)
        cache_features(module, program, externals, clock, recipe.temporal, lambda: first_call(denoiser, store))
        others = {n: layer for n, layer in stage.layers.items() if not plans[n].temporal}
        calibrate_activations(denoiser, store, clock, others, bits, attention, recipe, progress)
    correction, measured = None, None
    if recipe.correction is not None:
        with _timed(timings, "correction"):
            quantized = target.with_module(module)
            correction, measured = correct(target, quantized, graph, clock, recipe, conditioning, progress)
    found = graph.attention if recipe.attention.quantize else ()
    blueprint = Blueprint(recipe, graph.time_argument, graph.shared, graph.projections, found, splits)
    return Quantized(module, blueprint, clock, graph, timings, correction, measured)


def probe_of(target: Target, recipe: Recipe, conditioning: Mapping[str, Any] | None = None) -> Probe:
    """How the graph reader may run the denoiser: at time steps of the recipe's own schedule."""
    scheduler = build_scheduler(target.denoiser.scheduler, recipe.calibration.sampler)
    set_steps(scheduler, recipe.calibration.steps)
    steps = scheduler.timesteps.unique()
    picked = steps[torch.linspace(0, len(steps) - 1, min(3, len(steps))).long()].tolist()
    if len(picked) < 3:
        last = scheduler.config.num_train_timesteps - 1
        picked = sorted({*picked, 0, last // 2, last})
    shape = target.denoiser.sample_shape
    schedule = {"steps": recipe.calibration.steps, "sampler": recipe.calibration.sampler, "eta": recipe.calibration.eta}
    variants = condition_variants(target, conditioning, seed=recipe.seed, **schedule)
    return Probe(target.denoiser.module, target.denoiser, shape, tuple(picked), variants)


def record_trajectories(
    target: Target, recipe: Recipe, folder: Path, progress: Progress, conditioning: Mapping[str, Any] | None = None
) -> Store:
    """The full-precision recording that ``recipe`` asks for."""
    wanted = recipe.calibration
    return record(
        target,
        folder,
        samples=wanted.samples,
        steps=wanted.steps,
        seed=recipe.seed,
        sampler=wanted.sampler,
        eta=wanted.eta,
        dtype=wanted.dtype,
        conditioning=conditioning,
        progress=progress,
    )


def unit_identity(store: Store, recipe: Recipe, plans: dict[str, LayerPlan]) -> dict[str, Any]:
    """Everything that finished weights depend on; activation settings are not among it."""
    entries = recipe.model_dump(mode="json", include={"effort", "weights", "seed"})
    return entries | {
        "temporal reconstruction": recipe.temporal.reconstruction,
        "reconstruction rows": recipe.calibration.rows,
        "weight bits": {name: plan.weight_bits for name, plan in plans.items()},
        "recording": store.request,
        "thread count": torch.get_num_threads(),
    }


def weight_stage(
    module: nn.Module,
    graph: DenoiserGraph,
    recipe: Recipe,
    plans: dict[str, LayerPlan],
    cache: UnitCache,
    progress: Progress,
) -> WeightStage:
    """Make the planned layers of ``module`` quantizable, and gather what the weight stage needs."""
    names = [n for n, p in plans.items() if (p.weight_bits, p.activation_bits) != (FLOAT_BITS, FLOAT_BITS)]
    layers = install_layers(module, names)
    full = {name: layer.weight.detach() for name, layer in layers.items()}
    return WeightStage(module, graph, recipe, effort(recipe.effort), dict(layers), plans, full, cache, progress)


def reconstruct_temporal(stage: WeightStage, program: TemporalProgram, externals: dict[str, Tensor]) -> None:
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
    units = stage_units(stage)
    in_units = {name for unit in units for name in unit.layers}
    rest = [n for n in stage.layers if n not in in_units and stage.layers[n].weight_scale is None]
    if stage.recipe.weights.rounding == "nearest":
        round_nearest(stage, [n for n in stage.layers if stage.layers[n].weight_scale is None])
        return
    round_nearest(stage, rest)
    sample, timestep, conditioning = store.read(*reconstruction_rows(store, stage.recipe))
    rows, twice = (doubled(sample), doubled(timestep)), doubled(conditioning)
    reconstruct_units(stage, units, lambda: denoiser(*rows, **twice), rows[1].shape[0])


def stage_units(stage: WeightStage) -> list[Unit]:
    """The units to reconstruct; with ``temporal.reconstruction = block`` temporal layers belong to theirs."""
    units = list(stage.graph.units)
    if stage.recipe.temporal.reconstruction != "block":
        return units
    order = {layer.name: layer.order for layer in stage.graph.layers}
    loose = [name for name, plan in stage.plans.items() if plan.temporal and stage.quantizes(name)]
    for i, unit in enumerate(units):
        inside = [name for name in loose if name.startswith(unit.name + ".")]
        loose = [name for name in loose if name not in inside]
        units[i] = Unit(unit.name, tuple(sorted([*unit.layers, *inside], key=order.__getitem__)))
    units += [Unit(name, (name,)) for name in loose]
    return sorted(units, key=lambda unit: min(order[name] for name in unit.layers))


def reconstruction_rows(store: Store, recipe: Recipe) -> tuple[Tensor, Tensor]:
    """Recorded (step, sample) pairs for weight reconstruction: spread evenly over steps, samples drawn at random."""
    count, steps = recipe.calibration.rows, store.steps
    draw = generator(recipe.seed, "reconstruction rows")
    chosen = (torch.arange(count) * steps) // count if count <= steps else torch.arange(count) % steps
    samples = torch.cat([torch.randperm(store.samples, generator=draw) for _ in range(-(-count // store.samples))])
    return chosen, samples[:count]


def first_call(denoiser: Denoiser, store: Store) -> Tensor:
    """What the denoiser makes of the first recorded input."""
    sample, timestep, conditioning = store.read(torch.zeros(1, dtype=torch.long), torch.zeros(1, dtype=torch.long))
    return denoiser(sample, timestep, **conditioning)


def correct(
    target: Target,
    quantized: Target,
    graph: DenoiserGraph,
    clock: Clock,
    recipe: Recipe,
    conditioning: Mapping[str, Any] | None,
    progress: Progress,
) -> tuple[CorrectionTables | None, dict[str, Any]]:
    """Choose step-wise bits, and measure the correction that the recipe names.

    Both are measured on full-precision trajectories of the recipe's schedule, from noise that calibrated nothing:
    rounding fits the recorded inputs better than any others.

    Returns:
        The correction's tables (None with ``kind = none``), and what was measured by row.
    """
    wanted, own = recipe.correction, recipe.calibration
    assert wanted is not None
    count = min(wanted.samples, own.samples)
    run = {"steps": own.steps, "seed": recipe.seed, "sampler": own.sampler, "eta": own.eta}
    trajectories = Trajectories(range(own.samples, own.samples + count), run, conditioning)
    measured: dict[str, Any] = {"samples": count, "timesteps": clock.timesteps.tolist()}
    if wanted.step_bits:
        plans = [plan_layers(graph, recipe.with_activation_bits(bits)) for bits in wanted.step_bits]
        widths = {name: [plan[name].activation_bits for plan in plans] for name in plans[0]}
        bits = wanted.step_bits
        measured["steps"] = set_step_bits(target, quantized, clock, trajectories, bits, widths, progress)
    if wanted.kind == "none":
        return None, measured
    (sums,) = compare_predictions(target, quantized, clock, trajectories, [lambda: None], progress)
    noise = quantization_noise(sums)
    found = {"k": noise.k, "r2": noise.r2, "variance": noise.variance, "snr": sums.snr()}
    measured |= {name: [float(f"{x:.6g}") for x in values] for name, values in found.items()}
    return correction_tables(sums, wanted.kind), measured


@contextmanager
def _timed(timings: dict[str, float], stage: str) -> Iterator[None]:
    start = time.perf_counter()
    yield
    timings[stage] = round(time.perf_counter() - start, 3)
