"""Metrics of a model's own samples, which are drawn and measured batch by batch, so that any number fits in memory."""

from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor

from tempoquant.evaluation.plan import Plan
from tempoquant.evaluation.statistics import Statistics
from tempoquant.pipelines import Model, check_image, to_images
from tempoquant.progress import Progress

FIRST_INDEX = 100_000
"""The first sample: other noise than that of paired images."""


def check_sampled(plan: Plan, target: Model, samples: int, conditioning: Mapping[str, Any] | None) -> None:
    """Raise InputError unless so many of the target's images can be measured; one empty latent is decoded."""
    check_image(target.name, target.pixel_shape, "metrics of sets of images are not theirs: leave out --metrics")
    pixels = target.decode(torch.zeros(1, *target.denoiser.sample_shape))
    height, width, channels = to_images(pixels).shape[1:]
    plan.check((height, width, channels), samples, (conditioning or {}).get("prompt"))


def sampled_reference(plan: Plan, full: Model, progress: Progress, **drawing: Any) -> Statistics | None:
    """What samples are compared with: the plan's reference, else the full-precision model's own samples.

    Args:
        drawing: ``samples``, ``conditioning``, ``batch_size`` and the options of ``Model.generate``.

    Returns:
        None if no metric compares.
    """
    real = plan.real_statistics(progress)
    if real is None and plan.compares:
        drawn = _drawn(full, "full-precision images", progress, **drawing)
        return plan.gather(drawn, "full precision, from the same noise")
    return real


def measure_sampled(
    plan: Plan, quantized: Model, real: Statistics | None, progress: Progress, *, seed: int, **drawing: Any
) -> dict[str, Any]:
    """The metrics of a quantized model's samples; see :meth:`Plan.measure` and :func:`sampled_reference`."""
    prompts = (drawing.get("conditioning") or {}).get("prompt")
    drawn = _drawn(quantized, "quantized images", progress, seed=seed, **drawing)
    return plan.measure(drawn, real=real, prompts=prompts, seed=seed)


def _drawn(
    target: Model,
    stage: str,
    progress: Progress,
    *,
    samples: int,
    conditioning: Mapping[str, Any] | None,
    batch_size: int,
    **options: Any,
) -> Iterator[Tensor]:
    """A model's images, (N, H, W, C) uint8."""
    with progress.stage(stage, samples) as advance:
        for start in range(0, samples, batch_size):
            rows = range(start, min(start + batch_size, samples))
            some = {name: _part(value, rows) for name, value in (conditioning or {}).items()} or None
            indices = [FIRST_INDEX + row for row in rows]
            yield to_images(target.generate(indices, conditioning=some, batch_size=batch_size, **options))
            advance(len(rows))


def _part(value: Any, rows: range) -> Any:
    """These rows of a conditioning argument; what is no list or tensor serves all samples."""
    return value[rows.start : rows.stop] if isinstance(value, (list, tuple, Tensor)) else value
