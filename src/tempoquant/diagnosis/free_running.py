"""Trajectories of one model from the recorded noise, where errors accumulate; and what layers cost there."""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

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
class Course:
    """One model's own trajectories.

    Attributes:
        deviation: (K,) ``|x_t - x_t'| / |x_t|`` over all samples, x_t the recorded full-precision sample.
        pixels: (N, C, H, W) the images in [-1, 1]. frames: (F, S, H, W, C) uint8, the first S samples on their way.
    """

    deviation: Tensor
    pixels: Tensor
    frames: Tensor


@dataclass(frozen=True)
class Cost:
    """What quantizing one part alone does to the images.

    Attributes:
        name: a layer, or a range of steps. error: mean squared pixel error, pixels from -1 to 1. share: of the sum over
            all parts that were judged, 0 to 1.
    """

    name: str
    error: float
    share: float


class Walker:
    """Runs models from the recording's noise.

    Args:
        store: the full-precision recording. options: as ``Model.generate`` takes them beside the samples.
    """

    def __init__(self, store: Store, options: dict[str, Any]):
        self.store, self.options = store, options
        self.trajectories = store.samples // store.branches
        count = min(MOST_FRAMES, store.steps)
        self.frame_steps = torch.linspace(0, store.steps - 1, count).round().long().unique()

    def course(self, target: Model, shown: int) -> Course:
        """All trajectories of ``target``.

        Args:
            shown: S, the samples to keep frames of.
        """
        error, power = torch.zeros(2, self.store.steps, dtype=torch.float64)
        wanted = set(self.frame_steps.tolist())
        frames: dict[int, list[Tensor]] = {k: [] for k in wanted}

        def see(k: int, t: Tensor, indices: Tensor, sample: Tensor, prediction: Tensor) -> None:
            full = self.at(k, indices)
            own = sample.detach().float().cpu()
            error[k] += float((own.double() - full).square().sum())
            power[k] += float(full.double().square().sum())
            if k in wanted:
                # Guidance shows every sample twice, its branches one after another.
                count = len(set(indices.tolist()))
                first = own[:count][indices[:count] < shown]
                frames[k] += [first] if len(first) else []

        pixels = target.generate(self.trajectories, step_callback=see, **self.options)
        check_samples(target.name, pixels)
        pictures = [to_images(target.decode(torch.cat(frames[k]))) for k in sorted(wanted)]
        return Course((error / power).sqrt(), pixels, torch.stack(pictures))

    def images(self, target: Model, samples: int) -> Tensor:
        """The first images of ``target``, (N, C, H, W)."""
        conditioning = self.options.get("conditioning")
        some = None if conditioning is None else {n: _first(v, samples) for n, v in conditioning.items()}
        return target.generate(samples, **{**self.options, "conditioning": some})

    def at(self, k: int, indices: Tensor) -> Tensor:
        """The recorded samples of these trajectories at step index ``k``."""
        rows = indices.cpu() * self.store.branches
        return self.store.read(torch.full_like(rows, k), rows)[0]


def layer_costs(
    pair: Pair, walker: Walker, layers: Sequence[str], truth: Tensor, progress: Progress
) -> tuple[Cost, ...]:
    """Layers quantized alone in the full-precision model, the costliest first.

    Only the 24 layers that disturb the predicted noise most are judged by their images, which take all steps.

    Args:
        truth: (N, C, H, W) the full-precision images to compare with; N samples are drawn for every layer.
    """

    def alone(name: str) -> AbstractContextManager[Model]:
        return pair.only([name])

    found = _screened(pair, walker.store, layers, progress)[:CANDIDATES]
    return _costs(walker, found, alone, truth, "costliest layers' images", progress)


@torch.inference_mode()
def _screened(pair: Pair, store: Store, layers: Sequence[str], progress: Progress) -> list[str]:
    """``layers``, those first that quantized alone change the predicted noise most, on one batch of spread steps."""
    rows = torch.linspace(0, store.steps - 1, min(SCREEN_ROWS, store.steps)).round().long()
    given = store.read(rows, torch.arange(len(rows)) % store.samples)
    sample, t, conditioning = map_kind(given, Tensor, lambda x: x.to(device_of(pair.full.denoiser.module)))
    errors: dict[str, float] = {}
    with progress.stage("each layer quantized alone", len(layers)) as advance, evaluating(pair.full.denoiser.module):
        truth = pair.full.denoiser(sample, t, **conditioning)
        for name in layers:
            with pair.only([name]) as target:
                errors[name] = float((target.denoiser(sample, t, **conditioning) - truth).double().square().mean())
            advance(1)
    return sorted(errors, key=lambda name: -errors[name])


def step_costs(pair: Pair, walker: Walker, clock: Clock, truth: Tensor, progress: Progress) -> tuple[Cost, ...]:
    """The quantized model at some steps, full precision at the others, for equal ranges of steps in step order.

    Args:
        truth: as of :func:`layer_costs`. clock: see :meth:`Pair.at`.
    """
    timesteps = [float(t) for t in walker.store.timesteps]
    count = min(RANGES, len(timesteps))
    bounds = [round(len(timesteps) * i / count) for i in range(count + 1)]
    ranges = {f"{timesteps[a]:g} to {timesteps[b - 1]:g}": timesteps[a:b] for a, b in pairwise(bounds)}

    def within(name: str) -> AbstractContextManager[Model]:
        return pair.at(set(ranges[name]), clock)

    found = _costs(walker, list(ranges), within, truth, "some steps quantized", progress)
    return tuple(sorted(found, key=lambda cost: list(ranges).index(cost.name)))


def _costs(
    walker: Walker,
    names: Sequence[str],
    model: Callable[[str], AbstractContextManager[Model]],
    truth: Tensor,
    stage: str,
    progress: Progress,
) -> tuple[Cost, ...]:
    errors: dict[str, float] = {}
    with progress.stage(stage, len(names)) as advance:
        for name in names:
            with model(name) as target:
                drawn = walker.images(target, len(truth))
            errors[name] = float((drawn.double() - truth.double()).square().mean())
            advance(1)
    total = sum(errors.values()) or 1.0
    ranked = sorted(errors, key=lambda name: -errors[name])
    return tuple(Cost(name, errors[name], errors[name] / total) for name in ranked)


def _first(value: Any, count: int) -> Any:
    """The first ``count`` entries of a conditioning argument; what is no list or tensor serves all samples."""
    return value[:count] if isinstance(value, (list, tuple, Tensor)) else value
