"""What a step of training minimises: the diffusion loss on images, or the distance to full-precision predictions."""

from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor

from tempoquant.errors import InputError
from tempoquant.pipelines import Model
from tempoquant.randomness import generator
from tempoquant.recording import Store
from tempoquant.sampling import Denoiser, Unbatched, device_of
from tempoquant.training.data import Pictures

PREDICTIONS = ("epsilon", "v_prediction", "sample")


class Batch(NamedTuple):
    """Inputs of the denoiser, (N, *sample_shape), (N,) and keyword tensors of N rows, and what it is to predict."""

    sample: Tensor
    timestep: Tensor
    target: Tensor
    conditioning: dict[str, Any]


class Objective(Protocol):
    """Where batches come from."""

    def draw(self, count: int, own: slice, *key: object) -> Batch:
        """The rows ``own`` of a batch of ``count``: each row is the same whichever others are asked for with it."""
        ...


class DiffusionLoss:
    """Noise an image to a uniformly drawn step of the training schedule, predict what the model predicts (DDPM).

    Images of latent models pass through their autoencoder first.

    Raises:
        InputError: the model is conditional, or its scheduler cannot noise.
    """

    def __init__(self, pictures: Pictures, target: Model):
        scheduler = target.denoiser.scheduler
        kind = scheduler.config.get("prediction_type", "epsilon")
        if target.conditional:
            raise InputError(f"{target.name} is conditional: images say no condition, so train it without --data")
        if not hasattr(scheduler, "add_noise") or not hasattr(scheduler, "alphas_cumprod") or kind not in PREDICTIONS:
            raise InputError(f"{type(scheduler).__name__} ({kind}) has no diffusion loss here: train without --data")
        self.pictures, self.target, self.kind = pictures, target, kind

    def draw(self, count: int, own: slice, *key: object) -> Batch:
        scheduler, device = self.target.denoiser.scheduler, device_of(self.target.denoiser.module)
        random = generator("diffusion", *key)
        timestep = torch.randint(scheduler.config.num_train_timesteps, (count,), generator=random)[own]
        noise = torch.randn((count, *self.target.denoiser.sample_shape), generator=random)[own]
        clean = self.target.encode(self.pictures.draw(count, own, "images", *key)).cpu()
        sample = scheduler.add_noise(clean, noise, timestep)
        predicted = {"epsilon": lambda: noise, "sample": lambda: clean}.get(
            self.kind, lambda: scheduler.get_velocity(clean, noise, timestep)
        )()
        return Batch(sample.to(device), timestep.to(device), predicted.to(device), {})


class Distillation:
    """Predict what the full-precision denoiser predicts, at inputs of its own recorded trajectories: no data needed.

    Steps and trajectories are drawn uniformly; guidance branches are rows of their own.

    Args:
        teacher: the full-precision denoiser.
    """

    def __init__(self, store: Store, teacher: Denoiser):
        self.store, self.teacher = store, teacher

    def draw(self, count: int, own: slice, *key: object) -> Batch:
        random = generator("distillation", *key)
        steps = torch.randint(self.store.steps, (count,), generator=random)[own]
        rows = torch.randint(self.store.samples, (count,), generator=random)[own]
        sample, timestep, conditioning = _on(device_of(self.teacher.module), self.store.read(steps, rows))
        with torch.no_grad():
            return Batch(sample, timestep, self.teacher(sample, timestep, **conditioning), conditioning)


def _on(device: torch.device, value: Any) -> Any:
    if isinstance(value, Tensor):
        return value.to(device)
    if isinstance(value, dict):
        return {name: _on(device, part) for name, part in value.items()}
    if isinstance(value, Unbatched):
        return value
    return tuple(_on(device, part) for part in value)
