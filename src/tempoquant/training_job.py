"""The training job: read the denoiser, record it, calibrate where intervals begin, train, fold."""

import copy
import shutil
import warnings
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from tempoquant.calibration import calibrate_activations
from tempoquant.checkpoint import Blueprint
from tempoquant.errors import InputError
from tempoquant.evaluation import ImageSet, save_grid
from tempoquant.intervals import Clock
from tempoquant.job import Quantized, probe_of, record_trajectories
from tempoquant.layers import install_attention, install_layers
from tempoquant.pipelines import Model, is_image, to_images
from tempoquant.planning import Reading, coverage_of, read, warn_of_float
from tempoquant.progress import Progress
from tempoquant.recipe import FLOAT_BITS, Recipe
from tempoquant.recording import Store
from tempoquant.stopwatch import Stopwatch
from tempoquant.training import (
    DiffusionLoss,
    Distillation,
    Objective,
    Pictures,
    Processes,
    Rhythm,
    Trainee,
    Trainer,
    fold,
    make_trainable,
    train_steps,
)
from tempoquant.transforms import install_transforms

PICTURED = 16


@dataclass(frozen=True)
class TrainingData:
    """What a model trains on.

    Attributes:
        images: or None for data-free distillation. identity: what tells them from others, plain JSON data.
        conditioning: of its own trajectories, as ``target.generate`` takes it.
    """

    images: ImageSet | None
    identity: str
    conditioning: Mapping[str, Any] | None = None


def run_training(
    target: Model,
    recipe: Recipe,
    data: TrainingData,
    places: tuple[Path, Path],
    rhythm: Rhythm,
    processes: Processes,
    progress: Progress,
) -> Quantized:
    """Train ``target``'s denoiser on the grid of ``recipe``, and fold it.

    Args:
        places: folders of the recording, and of checkpoints, log and samples.
    """
    watch = Stopwatch()
    recording, folder = places
    folder.mkdir(parents=True, exist_ok=True)
    # What is wrong about the images is said before any work.
    pictures = None if data.images is None else DiffusionLoss(Pictures(data.images, target.pixel_shape), target)
    if rhythm.samples and not is_image(target.pixel_shape):
        warnings.warn(f"samples of {target.name} are {target.pixel_shape} and no images: none are drawn", stacklevel=2)
    with watch.stage("read"):
        probe = probe_of(target, recipe, data.conditioning)
        reading = read(probe, recipe)
        coverage = coverage_of(probe, reading)
    warn_of_float(coverage)
    with watch.stage("record"):
        store = record_trajectories(target, recipe, recording, progress, data.conditioning)
    clock = Clock(store.timesteps, reading.graph.time_argument.position, reading.graph.time_argument.name)
    with watch.stage("activations"):
        trainee = begin(target, recipe, reading, store, clock, progress)
    trainee.module.to(processes.device)
    teacher = replace(target.denoiser, module=copy.deepcopy(target.denoiser.module).to(processes.device).eval())
    objective: Objective = pictures or Distillation(store, teacher)
    student = replace(target.denoiser, module=trainee.module)
    trainer = Trainer(trainee, student, objective, recipe, processes)
    identity = {"data": data.identity, "processes": processes.count, "threads": torch.get_num_threads()}
    draw = _drawing(target, recipe, folder, data.conditioning)
    with watch.stage("training"):
        train_steps(trainer, folder, identity, rhythm, progress, draw)
    trainer.use(trainer.ema)
    # Where tables will be made again, should the networks be kept.
    trainee.module.cpu()
    module = fold(trainee, recipe.activations.keep_generators)
    graph = reading.graph
    blueprint = Blueprint(
        recipe, graph.time_argument, graph.shared, graph.projections, reading.products, reading.transforms
    )
    return Quantized(module, blueprint, clock, graph, coverage, watch)


def begin(target: Model, recipe: Recipe, reading: Reading, store: Store, clock: Clock, progress: Progress) -> Trainee:
    """A copy of the denoiser that can train, its intervals where calibration on the recording puts them."""
    train_timesteps = int(target.denoiser.scheduler.config.num_train_timesteps)
    plans = reading.plans(recipe)
    module = copy.deepcopy(target.denoiser.module).eval()
    install_transforms(module, reading.transforms)
    names = [n for n, p in plans.items() if (p.weight_bits, p.activation_bits) != (FLOAT_BITS, FLOAT_BITS)]
    if not names:
        raise InputError(f"{recipe.name} quantizes no layer of this denoiser: nothing would train")
    layers = install_layers(module, names)
    attention = install_attention(module, reading.products)
    clock.attach(module)
    denoiser = replace(target.denoiser, module=module)
    calibrate_activations(denoiser, store, clock, layers, plans, attention, recipe, train_timesteps, progress)
    return make_trainable(module, layers, attention, plans, clock, recipe, train_timesteps)


def keep_evidence(folder: Path, into: Path) -> None:
    """Copy a run's log and samples to where the result is."""
    for path in sorted([*folder.glob("*.jsonl"), *folder.glob("*.png")]):
        into.mkdir(parents=True, exist_ok=True)
        shutil.copy(path, into / path.name)


def _drawing(target: Model, recipe: Recipe, folder: Path, conditioning: Mapping[str, Any] | None) -> Any:
    """Draws the first samples of a network at a step of its training, as a picture."""
    own = recipe.calibration
    count = min(PICTURED, own.samples)
    given = {n: v[:count] if isinstance(v, list | tuple | torch.Tensor) else v for n, v in (conditioning or {}).items()}

    def draw(module: nn.Module, step: int) -> None:
        run: dict[str, Any] = {"steps": own.steps, "sampler": own.sampler, "eta": own.eta, "seed": recipe.seed}
        drawn = target.with_module(module).generate(count, conditioning=given or None, **run)
        if is_image(drawn.shape[1:]):
            save_grid(to_images(drawn), folder / f"samples-{step}.png")

    return draw
