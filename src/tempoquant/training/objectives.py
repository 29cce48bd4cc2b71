"""Objectives of training: the diffusion loss on images, or the distance to full-precision predictions."""

from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor

from tempoquant.errors import InputError
from tempoquant.pipelines import Model
from tempoquant.randomness import rng
from tempoquant.recording import Store
from tempoquant.sampling import Denoiser, Unbatched, device_of
from tempoquant.training.data import Pictures

PREDICTIONS = ("epsilon", "v_prediction", "sample")


class Batch(NamedTuple):
    """Inputs of the denoiser and what it is to predict.

    Attributes:
        sample: (N, *sample_shape) float32.
        timestep: (N,).
        target: the prediction, (N, *sample_shape).
        conditioning: keyword tensors of N rows.
    """

    sample: Tensor
    timestep: Tensor
    target: Tensor
    conditioning: dict[str, Any]


class Objective(Protocol):
    """Draws batches."""

    def draw(self, count: int, rows: slice, *key: object) -> Batch:
        """Some rows of a batch; each is the same whichever others are drawn with it.

        Args:
            count: rows of the whole batch.
            rows: those to draw.
            key: names the random numbers.
        """
        ...


class DiffusionLoss:
    """The model's prediction for an image with noise of a uniformly drawn training time step (DDPM, Ho et al., 2020).

    Images of latent models pass through their autoencoder first.

    Args:
        pictures: to train on.
        model: in full precision; its scheduler adds the noise.

    Raises:
        InputError: the model is conditional, or its scheduler cannot noise.
    """

    def __init__(self, pictures: Pictures, model: Model):
        scheduler = model.denoiser.scheduler
        kind = scheduler.config.get("prediction_type", "epsilon")
        if model.conditional:
            raise InputError(f"{model.name} is conditional: images say no condition, so train it without --data")
        if not hasattr(scheduler, "add_noise") or not hasattr(scheduler, "alphas_cumprod") or kind not in PREDICTIONS:
            raise InputError(f"{type(scheduler).__name__} ({kind}) has no diffusion loss here: train without --data")
        self.pictures, self.model, self.kind = pictures, model, kind

    def draw(self, count: int, rows: slice, *key: object) -> Batch:
        """See :class:`Objective`."""
        scheduler, device = self.model.denoiser.scheduler, device_of(self.model.denoiser.module)
        random = rng("diffusion", *key)
        timestep = torch.randint(scheduler.config.num_train_timesteps, (count,), generator=random)[rows]
        noise = torch.randn((count, *self.model.denoiser.sample_shape), generator=random)[rows]
        clean = self.model.encode(self.pictures.draw(count, rows, "images", *key)).cpu()
        sample = scheduler.add_noise(clean, noise, timestep)
        predicted = {"epsilon": lambda: noise, "sample": lambda: clean}.get(
            self.kind, lambda: scheduler.get_velocity(clean, noise, timestep)
        )()
        return Batch(sample.to(device), timestep.to(device), predicted.to(device), {})


class Distillation:
    """The full-precision denoiser's prediction for inputs of its recorded trajectories; needs no data.

    Steps and trajectories are drawn uniformly; guidance branches are rows of their own.

    Args:
        store: the recording.
        teacher: the full-precision denoiser.
    """

    def __init__(self, store: Store, teacher: Denoiser):
        self.store, self.teacher = store, teacher

    def draw(self, count: int, rows: slice, *key: object) -> Batch:
        """See :class:`Objective`."""
        random = rng("distillation", *key)
        steps = torch.randint(self.store.steps, (count,), generator=random)[rows]
        samples = torch.randint(self.store.samples, (count,), generator=random)[rows]
        sample, timestep, conditioning = _on(device_of(self.teacher.module), self.store.read(steps, samples))
        with torch.no_grad():
            return Batch(sample, timestep, self.teacher(sample, timestep, **conditioning), conditioning)


def _on(device: torch.device, value: Any) -> Any:
    """Nested arguments with every tensor moved to ``device``."""
    if isinstance(value, Tensor):
        return value.to(device)
    if isinstance(value, dict):
        return {name: _on(device, part) for name, part in value.items()}
    if isinstance(value, Unbatched):
        return value
    return tuple(_on(device, part) for part in value)
