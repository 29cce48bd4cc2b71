"""The training job: stages that make a copy of the denoiser trainable, train it, and fold it."""

import shutil
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tempoquant.evaluation import ImageSet
from tempoquant.job import Quantized
from tempoquant.pipelines import Model, is_image
from tempoquant.progress import Progress
from tempoquant.recipe import Recipe
from tempoquant.stages import (
    JobState,
    Read,
    Record,
    Stage,
    Train,
    Trainable,
    TrainingSettings,
    Transform,
    WorkFolders,
    ordered,
    run_stages,
)
from tempoquant.training import DiffusionLoss, Pictures, Processes, Rhythm


@dataclass(frozen=True)
class TrainingData:
    """What a model trains on.

    Attributes:
        images: or None for distillation from the model's own trajectories.
        identity: what tells them from others, as plain JSON data.
        conditioning: of the model's own trajectories, as ``model.generate`` takes it.
    """

    images: ImageSet | None
    identity: str
    conditioning: Mapping[str, Any] | None = None


def training_stages_of(recipe: Recipe, settings: TrainingSettings) -> list[Stage]:
    """The stages of training with ``recipe``, in order.

    Raises:
        InputError: see :func:`tempoquant.stages.ordered`.
    """
    return ordered([Read(), Record(), Transform(), Trainable(), Train(settings)], recipe)


def run_training(
    model: Model,
    recipe: Recipe,
    data: TrainingData,
    folders: WorkFolders,
    rhythm: Rhythm,
    processes: Processes,
    progress: Progress,
) -> Quantized:
    """Train a copy of ``model``'s denoiser on the grid of ``recipe``, and fold it.

    Args:
        model: in full precision.
        recipe: of a method that trains.
        data: what it trains on.
        folders: of unfinished work: the recording, checkpoints, log and samples.
        rhythm: how often to log, save and draw samples.
        processes: those that train together.
        progress: shows what goes on.

    Raises:
        InputError: the images do not fit the model, or the recipe quantizes no layer.
        NumericsError: the loss is not finite.
    """
    # What is wrong about the images is said before any work.
    loss = None if data.images is None else DiffusionLoss(Pictures(data.images, model.pixel_shape), model)
    if rhythm.samples and not is_image(model.pixel_shape):
        warnings.warn(f"samples of {model.name} are {model.pixel_shape} and no images: none are drawn", stacklevel=2)
    settings = TrainingSettings(loss, data.identity, rhythm, processes)
    state = JobState(model, recipe, folders, progress, data.conditioning)
    run_stages(training_stages_of(recipe, settings), state)
    return Quantized.of(state)


def keep_evidence(folder: Path, into: Path) -> None:
    """Copy a run's log and samples to where the result is."""
    for path in sorted([*folder.glob("*.jsonl"), *folder.glob("*.png")]):
        into.mkdir(parents=True, exist_ok=True)
        shutil.copy(path, into / path.name)
