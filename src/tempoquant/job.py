"""The main job: read the denoiser, record it, round its weights, calibrate its activations."""

import copy
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from tempoquant.calibration import ActivationStage, calibrate, first_call, learn_steps, tune
from tempoquant.checkpoint import Blueprint
from tempoquant.correction import (
    CorrectionTables,
    Trajectories,
    compare_predictions,
    correction_tables,
    quantization_noise,
    set_step_bits,
)
from tempoquant.errors import InputError
from tempoquant.graph import DenoiserGraph, Probe
from tempoquant.intervals import Clock
from tempoquant.layers import install_attention, quantized_layers
from tempoquant.pipelines import Model, condition_variants, in_float32, resolve
from tempoquant.planning import Coverage, Reading, coverage_of, read, warn_of_float
from tempoquant.progress import Progress
from tempoquant.recipe import Recipe
from tempoquant.reconstruction import (
    Effort,
    UnitCache,
    reconstruct_image_layers,
    reconstruct_temporal,
    unit_identity,
    weight_stage,
)
from tempoquant.reconstruction import effort as named_effort
from tempoquant.recording import Store, record
from tempoquant.sampling import build_scheduler, set_steps
from tempoquant.stopwatch import Stopwatch
from tempoquant.temporal import cache_features, most_conditions, temporal_inputs, temporal_program
from tempoquant.transforms import install_transforms


@dataclass
class Quantized:
    """A quantized denoiser, and what is known of it.

    Attributes:
        module: the module; its clock is attached.
        graph: what was read from the original, split layers as their parts. coverage: what is quantized of it.
        watch: seconds by stage.
        correction: of its noise predictions, or None. measured: what was found for it, by time step: plain JSON data.
    """

    module: nn.Module
    blueprint: Blueprint
    clock: Clock
    graph: DenoiserGraph
    coverage: Coverage
    watch: Stopwatch = field(default_factory=Stopwatch)
    correction: CorrectionTables | None = None
    measured: dict[str, Any] | None = None


@dataclass(frozen=True)
class Places:
    """Folders of what a job makes or continues.

    Attributes:
        recording: recorded trajectories. units: finished weights. steps: learned activation steps.
        tuning: unfinished tuning of the whole.
    """

    recording: Path
    units: Path
    steps: Path
    tuning: Path

    @classmethod
    def within(cls, work: Path, recording: Path | str | None = None, units: Path | str | None = None) -> "Places":
        """The folders in a workplace, but for those that are given because other jobs share them."""
        shared = Path(recording or work / "recording"), Path(units or work / "units")
        return cls(*shared, work / "steps", work / "tuning")


def run_job(
    target: Model,
    recipe: Recipe,
    places: Places,
    progress: Progress,
    conditioning: Mapping[str, Any] | None = None,
    effort: Effort | None = None,
) -> Quantized:
    """Quantize ``target``'s denoiser.

    Args:
        places: their contents are reused where they are of the same settings.
        conditioning: as ``target.generate`` takes it, for the recipe's calibration samples.
        effort: settings of reconstruction in the place of the recipe's; finished units do not know of it.
    """
    watch = Stopwatch()
    probe = probe_of(target, recipe, conditioning)
    with watch.stage("read"):
        reading = read(probe, recipe)
        coverage = coverage_of(probe, reading)
    warn_of_float(coverage)
    recipe = reading.recipe
    with watch.stage("record"):
        store = record_trajectories(target, recipe, places.recording, progress, conditioning)
    graph, plans = reading.graph, reading.plans(recipe)
    clock = Clock(store.timesteps, graph.time_argument.position, graph.time_argument.name)
    module = copy.deepcopy(target.denoiser.module).eval().requires_grad_(False)
    install_transforms(module, reading.transforms)
    cache = UnitCache(places.units, unit_identity(store, recipe, plans))
    settings = effort or named_effort(recipe.effort)
    stage = weight_stage(module, graph, recipe, settings, plans, cache, progress)
    job = ActivationStage(
        stage, install_attention(module, reading.products), clock, store, replace(target.denoiser, module=module)
    )
    with watch.stage("temporal features"):
        program = temporal_program(probe, graph)
        externals, rows = temporal_inputs(program, store, clock, most_conditions(graph), recipe.seed)
        reconstruct_temporal(stage, program, externals)
    with watch.stage("units"):
        reconstruct_image_layers(stage, job.denoiser, store)
    clock.attach(module)
    with watch.stage("activations"):
        calibrate(job, program, externals, rows)
    if recipe.activations.learn:
        with watch.stage("activation steps"):
            learn_steps(job, places.steps)
    # Last, since what is looked up runs in no two streams.
    cache_features(module, program, externals, clock, recipe.temporal, lambda: first_call(job))
    if recipe.tuning is not None:
        with watch.stage("tuning"):
            tune(job, target.denoiser, places.tuning)
    correction, measured = None, None
    if recipe.correction is not None:
        with watch.stage("correction"):
            compared = target, target.with_module(module)
            correction, measured = correct(compared, reading, clock, recipe, conditioning, progress)
    blueprint = Blueprint(
        recipe, graph.time_argument, graph.shared, graph.projections, reading.products, reading.transforms
    )
    return Quantized(module, blueprint, clock, graph, coverage, watch, correction, measured)


def full_precision(model: Any) -> Model:
    """The target that ``model`` names, in float32, to be quantized. For the forms see :func:`pipelines.resolve`.

    Raises:
        InputError: there is no such model, or it is quantized already.
    """
    target = resolve(model)
    if quantized_layers(target.denoiser.module):
        raise InputError(f"{target.name} is quantized already: quantize the full-precision model it was made from")
    return in_float32(target)


def probe_of(target: Model, recipe: Recipe, conditioning: Mapping[str, Any] | None = None) -> Probe:
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
    target: Model, recipe: Recipe, folder: Path, progress: Progress, conditioning: Mapping[str, Any] | None = None
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


def correct(
    compared: tuple[Model, Model],
    reading: Reading,
    clock: Clock,
    recipe: Recipe,
    conditioning: Mapping[str, Any] | None,
    progress: Progress,
) -> tuple[CorrectionTables | None, dict[str, Any]]:
    """Choose step-wise bits, and measure the correction that the recipe names.

    Both are measured on full-precision trajectories of the recipe's schedule, from noise that calibrated nothing:
    rounding fits the recorded inputs better than any others.

    Args:
        compared: in full precision, and quantized.

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
        plans = [reading.plans(recipe.with_activation_bits(bits)) for bits in wanted.step_bits]
        widths = {name: [plan[name].activation_bits for plan in plans] for name in plans[0]}
        bits = wanted.step_bits
        measured["steps"] = set_step_bits(*compared, clock, trajectories, bits, widths, progress)
    if wanted.kind == "none":
        return None, measured
    (sums,) = compare_predictions(*compared, clock, trajectories, [lambda: None], progress)
    noise = quantization_noise(sums)
    found = {"k": noise.k, "r2": noise.r2, "variance": noise.variance, "snr": sums.snr()}
    measured |= {name: [float(f"{x:.6g}") for x in values] for name, values in found.items()}
    return correction_tables(sums, wanted.kind), measured
