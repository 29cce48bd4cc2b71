"""A tiny network that trains in a second, and what its training is made of."""

from typing import Any

import torch
from diffusers import DDIMScheduler

from tempoquant.pipelines import resolve
from tempoquant.progress import Silent
from tempoquant.recipe import Recipe
from tempoquant.stages import JobState, Read, Record, Trainable, Transform, WorkFolders, run_stages
from tempoquant.training.prepare import Trainee
from tiny import bare_denoiser, small_recipe, unet_pipeline

SHORT = {"steps": 6, "batch": 4, "warm_up": 2, "lr": 1e-3}


def recipe(method: str = "tdq", weights: int = 4, activations: int = 4, **training: Any) -> Recipe:
    """A method's recipe that trains for six steps."""
    entries = {key: training.pop(key) for key in ("attention", "policy", "seed", "calibration") if key in training}
    return small_recipe(method, weights=weights, activations=activations, training={**SHORT, **training}, **entries)


def thin(**training: Any) -> Recipe:
    """TDQ with the networks in which nothing drops out."""
    data = recipe(**training).model_dump(mode="json")
    return Recipe.parse({**data, "activations": {**data["activations"], "generator": "thin"}})


def trainee(folder: Any, wanted: Recipe, model: Any = None) -> Trainee:
    """A calibrated network that can train."""
    model = resolve(model or unet_pipeline())
    state = JobState(model, wanted, WorkFolders(folder.parent, recording=folder), Silent())
    run_stages([Read(), Record(), Transform(), Trainable()], state)
    return state.trainee


def shaken(made: Trainee) -> Trainee:
    """The same, everything that learns away from where it started."""
    draws = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in made.module.parameters():
            if parameter.requires_grad:
                parameter.mul_(1 + 0.1 * torch.randn(parameter.shape, generator=draws))
    return made


def images(count: int = 12, size: int = 8, channels: int = 1) -> torch.Tensor:
    """Pictures of noise (N, H, W, C) uint8."""
    draws = torch.Generator().manual_seed(0)
    return torch.randint(0, 256, (count, size, size, channels), generator=draws, dtype=torch.uint8)


__all__ = ["DDIMScheduler", "bare_denoiser", "images", "recipe", "shaken", "trainee", "unet_pipeline"]
