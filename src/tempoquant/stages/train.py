"""Training the quantized denoiser, and folding it into integers and tables."""

import copy
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import nn

from tempoquant.arguments import samples_of
from tempoquant.evaluation import save_grid
from tempoquant.pipelines import is_image, to_images
from tempoquant.stages.stage import Stage
from tempoquant.stages.state import JobState
from tempoquant.training import Distillation, Objective, Processes, Rhythm, Trainer, fold, train_steps

DRAWN = 16
"""Samples of a picture that shows how far a training is."""


@dataclass(frozen=True)
class TrainingSettings:
    """What a training takes beside its recipe.

    Attributes:
        loss: on images; None for distillation from the model's own trajectories.
        data: what tells the images from others, as plain JSON data.
        rhythm: how often to log, save and draw samples.
        processes: those that train together.
    """

    loss: Objective | None
    data: str
    rhythm: Rhythm
    processes: Processes


class Train(Stage):
    """Trains, from the last checkpoint if there is one, and folds the average over the steps.

    Args:
        settings: beside the recipe's.
    """

    name = "training"
    needs = ("trainee", "store", "denoiser")
    keeps = "training"

    def __init__(self, settings: TrainingSettings):
        self.settings = settings

    def run(self, state: JobState) -> None:
        """See :class:`Stage`; a run that continues another one must have its data, processes and threads."""
        settings, trainee, recipe = self.settings, state.trainee, state.recipe
        processes, folder = settings.processes, state.folders.of(self.keeps)
        folder.mkdir(parents=True, exist_ok=True)
        trainee.module.to(processes.device)
        full = state.model.denoiser
        teacher = replace(full, module=copy.deepcopy(full.module).to(processes.device).eval())
        objective = settings.loss or Distillation(state.store, teacher)
        trainer = Trainer(trainee, state.denoiser, objective, recipe, processes)
        identity = {"data": settings.data, "processes": processes.count, "threads": torch.get_num_threads()}
        train_steps(trainer, folder, identity, settings.rhythm, state.progress, drawing(state))
        trainer.use(trainer.ema)
        # Tables are made on the processor, as they will be made again should the networks be kept.
        trainee.module.cpu()
        fold(trainee, recipe.activations.keep_generators)


def drawing(state: JobState) -> Callable[[nn.Module, int], None]:
    """What draws the first samples of a network at a step of its training, as a picture in the training's folder."""
    calibration, folder = state.recipe.calibration, state.folders.of(Train.keeps)
    count = min(DRAWN, calibration.samples)
    conditioning = samples_of(state.conditioning, slice(count))
    run: dict[str, Any] = {
        "steps": calibration.steps,
        "sampler": calibration.sampler,
        "eta": calibration.eta,
        "seed": state.recipe.seed,
    }

    def draw(module: nn.Module, step: int) -> None:
        samples = state.model.with_module(module).generate(count, conditioning=conditioning or None, **run)
        if is_image(samples.shape[1:]):
            save_grid(to_images(samples), folder / f"samples-{step}.png")

    return draw
