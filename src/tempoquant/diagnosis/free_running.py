"""Trajectories that a model samples by itself from the recorded noise, so that errors accumulate; costs of layers."""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

from tempoquant.arguments import samples_of
from tempoquant.diagnosis.pair import Pair
from tempoquant.graph import map_kind
from tempoquant.intervals import Clock
from tempoquant.modes import evaluating
from tempoquant.pipelines import Model, check_samples, to_images
from tempoquant.progress import Progress
from tempoquant.recording import Store
from tempoquant.sampling import device_of

MOST_FRAMES = 24
RANGES = 5
CANDIDATES = 24
SCREEN_ROWS = 16


@dataclass(frozen=True)
class Trajectories:
    """One model's trajectories from the recorded noise, K steps.

    Attributes:
        deviation: (K,) float64 ``|x_t - x_t'| / |x_t|`` over all samples, x_t the recorded full-precision sample.
        pixels: (N, C, H, W) float32, the images in [-1, 1].
        frames: (F, S, H, W, C) uint8, the first S samples at F steps.
    """

    deviation: Tensor
    pixels: Tensor
    frames: Tensor


@dataclass(frozen=True)
class Cost:
    """The image error that quantizing one part alone causes.

    Attributes:
        name: a layer, or a range of time steps such as ``"75 to 50"``.
        error: mean squared pixel error, pixels from -1 to 1.
        share: of the sum over all parts that were measured, 0 to 1.
    """

    name: str
    error: float
    share: float


class TrajectoryRunner:
    """Samples with models from the recording's noise.

    Args:
        store: the full-precision recording.
        options: keyword arguments of ``Model.generate``: steps, sampler, eta, seed, batch_size, conditioning.

    Attributes:
        trajectories: of the recording.
        frame_steps: (F,) int64, step indices of the frames.
    """

    def __init__(self, store: Store, options: dict[str, Any]):
        self.store, self.options = store, options
        self.trajectories = store.samples // store.branches
        count = min(MOST_FRAMES, store.steps)
        self.frame_steps = torch.linspace(0, store.steps - 1, count).round().long().unique()

    def run(self, model: Model, frame_samples: int) -> Trajectories:
        """Sample all trajectories of the recording with ``model``.

        Args:
            model: full precision, quantized or mixed.
            frame_samples: S, samples to keep frames of.

        Raises:
            NumericsError: a sample is not finite.
        """
        error, power = torch.zeros(2, self.store.steps, dtype=torch.float64)
        frame_steps = set(self.frame_steps.tolist())
        frames: dict[int, list[Tensor]] = {k: [] for k in frame_steps}

        def add_step(k: int, t: Tensor, indices: Tensor, sample: Tensor, prediction: Tensor) -> None:
            full = self.recorded_samples(k, indices)
            x = sample.detach().float().cpu()
            error[k] += float((x.double() - full).square().sum())
            power[k] += float(full.double().square().sum())
            if k in frame_steps:
                # Guidance shows every sample twice, its branches one after another.
                count = len(set(indices.tolist()))
                first = x[:count][indices[:count] < frame_samples]
                frames[k] += [first] if len(first) else []

        pixels = model.generate(self.trajectories, step_callback=add_step, **self.options)
        check_samples(model.name, pixels)
        pictures = [to_images(model.decode(torch.cat(frames[k]))) for k in sorted(frame_steps)]
        return Trajectories((error / power).sqrt(), pixels, torch.stack(pictures))

    def images(self, model: Model, samples: int) -> Tensor:
        """The images of the first trajectories, (samples, C, H, W) float32."""
        conditioning = self.options.get("conditioning")
        first = None if conditioning is None else samples_of(conditioning, slice(samples))
        return model.generate(samples, **{**self.options, "conditioning": first})

    def recorded_samples(self, k: int, indices: Tensor) -> Tensor:
        """The recorded samples (B, *sample_shape) float32 of trajectories ``indices`` (B,) at step index ``k``."""
        rows = indices.cpu() * self.store.branches
        return self.store.read(torch.full_like(rows, k), rows)[0]


def layer_costs(
    pair: Pair, runner: TrajectoryRunner, layers: Sequence[str], full_images: Tensor, progress: Progress
) -> tuple[Cost, ...]:
    """Image errors of the full-precision model with one layer quantized, the greatest first.

    Images take all steps, so they are compared for the 24 layers alone that change the predicted noise most.

    Args:
        pair: the two models.
        runner: samples with the mixed models.
        layers: names.
        full_images: (N, C, H, W) full-precision images to compare with; N samples are drawn for every layer.
        progress: advanced by one a layer.
    """

    def quantized_alone(name: str) -> AbstractContextManager[Model]:
        return pair.with_quantized_layers([name])

    candidates = _by_noise_error(pair, runner.store, layers, progress)[:CANDIDATES]
    return _costs(runner, candidates, quantized_alone, full_images, "costliest layers' images", progress)


@torch.inference_mode()
def _by_noise_error(pair: Pair, store: Store, layers: Sequence[str], progress: Progress) -> list[str]:
    """``layers`` by how much quantizing each alone changes the predicted noise, on one batch of steps evenly apart."""
    rows = torch.linspace(0, store.steps - 1, min(SCREEN_ROWS, store.steps)).round().long()
    inputs = store.read(rows, torch.arange(len(rows)) % store.samples)
    sample, t, conditioning = map_kind(inputs, Tensor, lambda x: x.to(device_of(pair.full.denoiser.module)))
    errors: dict[str, float] = {}
    with progress.stage("each layer quantized alone", len(layers)) as advance, evaluating(pair.full.denoiser.module):
        full = pair.full.denoiser(sample, t, **conditioning)
        for name in layers:
            with pair.with_quantized_layers([name]) as model:
                errors[name] = float((model.denoiser(sample, t, **conditioning) - full).double().square().mean())
            advance(1)
    return sorted(errors, key=lambda name: -errors[name])


def step_costs(
    pair: Pair, runner: TrajectoryRunner, clock: Clock, full_images: Tensor, progress: Progress
) -> tuple[Cost, ...]:
    """Image errors of models that are quantized in one range of steps and full precision elsewhere, in step order.

    Args:
        pair: the two models.
        runner: samples with the mixed models.
        clock: see :meth:`Pair.with_quantized_steps`.
        full_images: as of :func:`layer_costs`.
        progress: advanced by one a range; there are five of equal length, or one a step if there are fewer.
    """
    timesteps = [float(t) for t in runner.store.timesteps]
    count = min(RANGES, len(timesteps))
    bounds = [round(len(timesteps) * i / count) for i in range(count + 1)]
    ranges = {f"{timesteps[a]:g} to {timesteps[b - 1]:g}": timesteps[a:b] for a, b in pairwise(bounds)}

    def quantized_within(name: str) -> AbstractContextManager[Model]:
        return pair.with_quantized_steps(set(ranges[name]), clock)

    costs = _costs(runner, list(ranges), quantized_within, full_images, "some steps quantized", progress)
    return tuple(sorted(costs, key=lambda cost: list(ranges).index(cost.name)))


def _costs(
    runner: TrajectoryRunner,
    names: Sequence[str],
    mixed_model: Callable[[str], AbstractContextManager[Model]],
    full_images: Tensor,
    stage: str,
    progress: Progress,
) -> tuple[Cost, ...]:
    """Image errors of a mixed model for each name, the greatest first."""
    errors: dict[str, float] = {}
    with progress.stage(stage, len(names)) as advance:
        for name in names:
            with mixed_model(name) as model:
                images = runner.images(model, len(full_images))
            errors[name] = float((images.double() - full_images.double()).square().mean())
            advance(1)
    total = sum(errors.values()) or 1.0
    ranked = sorted(errors, key=lambda name: -errors[name])
    return tuple(Cost(name, errors[name], errors[name] / total) for name in ranked)
