"""Metrics of images that a model samples, drawn and measured batch by batch: memory does not grow with their number."""

from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor

from tempoquant.arguments import samples_of
from tempoquant.evaluation.plan import Plan
from tempoquant.evaluation.statistics import Statistics
from tempoquant.pipelines import Model, check_image, to_images
from tempoquant.progress import Progress

FIRST_INDEX = 100_000
"""Index of the first sample: its noise is not that of paired images."""


def check_sampled(plan: Plan, model: Model, samples: int, conditioning: Mapping[str, Any] | None) -> None:
    """Check that a model's samples are images that the plan can measure; decodes one latent of zeros.

    Args:
        plan: the metrics.
        model: that will sample.
        samples: how many.
        conditioning: as ``Model.generate`` takes it.

    Raises:
        InputError: samples are no images, too few, or of another shape than the reference's.
    """
    check_image(model.name, model.pixel_shape, "metrics of sets of images are not theirs: leave out --metrics")
    pixels = model.decode(torch.zeros(1, *model.denoiser.sample_shape))
    height, width, channels = to_images(pixels).shape[1:]
    plan.check((height, width, channels), samples, (conditioning or {}).get("prompt"))


def sampled_reference(plan: Plan, full: Model, progress: Progress, **generate_options: Any) -> Statistics | None:
    """Statistics to compare with: those of the plan's reference, else of the full-precision model's samples.

    Args:
        plan: the metrics.
        full: the full-precision model.
        progress: advanced by the samples.
        generate_options: ``samples``, ``conditioning``, ``batch_size`` and further options of ``Model.generate``.

    Returns:
        None if no metric needs a reference.
    """
    real = plan.real_statistics(progress)
    if real is None and plan.needs_reference:
        images = _sample(full, "full-precision images", progress, **generate_options)
        return plan.compute_statistics(images, "full precision, from the same noise")
    return real


def measure_sampled(
    plan: Plan, quantized: Model, real: Statistics | None, progress: Progress, *, seed: int, **generate_options: Any
) -> dict[str, Any]:
    """Compute the plan's metrics of a quantized model's samples, as JSON data.

    Args:
        plan: the metrics.
        quantized: the model.
        real: statistics to compare with, see :func:`sampled_reference`.
        progress: advanced by the samples.
        seed: of the samples' noise and of KID's random subsets.
        generate_options: as of :func:`sampled_reference`.
    """
    prompts = (generate_options.get("conditioning") or {}).get("prompt")
    images = _sample(quantized, "quantized images", progress, seed=seed, **generate_options)
    return plan.measure(images, real=real, prompts=prompts, seed=seed)


def _sample(
    model: Model,
    stage: str,
    progress: Progress,
    *,
    samples: int,
    conditioning: Mapping[str, Any] | None,
    batch_size: int,
    **options: Any,
) -> Iterator[Tensor]:
    """Batches (N, H, W, C) uint8 of a model's images."""
    with progress.stage(stage, samples) as advance:
        for start in range(0, samples, batch_size):
            rows = range(start, min(start + batch_size, samples))
            batch = samples_of(conditioning, slice(rows.start, rows.stop)) or None
            indices = [FIRST_INDEX + row for row in rows]
            yield to_images(model.generate(indices, conditioning=batch, batch_size=batch_size, **options))
            advance(len(rows))
