"""Metrics of images that are in memory, in one call."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from tempoquant.errors import InputError
from tempoquant.evaluation.clip import ClipScore
from tempoquant.evaluation.extractors import FeatureExtractor
from tempoquant.evaluation.images import TensorImages
from tempoquant.evaluation.plan import plan_metrics
from tempoquant.evaluation.statistics import BATCH, advancing
from tempoquant.progress import Progress, Silent


def distribution_metrics(
    images: Tensor,
    reference: Any = None,
    extractor: str | FeatureExtractor | None = None,
    metrics: Sequence[str] = ("fd",),
    *,
    prompts: Sequence[str] | None = None,
    clip: str | ClipScore | None = None,
    cache: Path | None = None,
    seed: int = 0,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Compute metrics of a set of images, as JSON data.

    Args:
        images: (N, H, W, C) uint8 with C 1 or 3, as ``to_images`` gives them.
        reference: real images or their statistics, see :func:`open_reference`; ``is`` and ``clip`` need none.
        extractor: a name in ``EXTRACTORS``, or a :class:`FeatureExtractor`.
        metrics: of fd (FID), sfd (sFID), is, kid, pr (precision and recall), clip.
        prompts: one an image, for ``clip``.
        clip: a local folder or hub id of a CLIP model.
        cache: folder of cached statistics of references; None to compute them each time.
        seed: of KID's random subsets.
        progress: advanced by the images.

    Returns:
        A dictionary a metric, by key, each with its ``name``, value and counts; ``generated``, the images; and the
        ``extractor`` and ``reference`` with their hashes and preprocessing.

    Raises:
        InputError: a metric is unknown, or its reference, extractor, prompts or CLIP model is missing or does not fit;
            raised before any long work.
    """
    generated = TensorImages(images, "the generated images")
    plan = plan_metrics(metrics, extractor=extractor, reference=reference, clip=clip, cache=cache)
    if plan.needs_reference and plan.reference is None:
        raise InputError(f"metrics {', '.join(plan.metrics)} need a reference: a folder of images, a .npz or a tensor")
    plan.check(generated.shape, len(generated), prompts)
    real = plan.real_statistics(progress)
    with (progress or Silent()).stage("image features", len(generated)) as advance:
        return plan.measure(advancing(generated.batches(BATCH), advance), real=real, prompts=prompts, seed=seed)


@dataclass(frozen=True)
class FrechetResult:
    """A Frechet distance and the counts that it depends on; comparable only with equal name and counts.

    Attributes:
        name: ``FD-<extractor>``, or ``FID`` with the published Inception weights.
        value: the distance.
        real: number of real images.
        generated: number of generated images.
        dimensions: of the features.
    """

    name: str
    value: float
    real: int
    generated: int
    dimensions: int

    def to_dict(self) -> dict[str, Any]:
        """The attributes as JSON data."""
        return asdict(self)


def frechet_distance(
    real: Tensor, generated: Tensor, extractor: FeatureExtractor, *, progress: Progress | None = None
) -> FrechetResult:
    """Frechet distance between the features of two sets of images (Heusel et al. 2017).

    It is biased by the number of images: never compare results of different counts.

    Args:
        real: (N, C, H, W) uint8.
        generated: (M, C, H, W) uint8.
        extractor: computes the features.
        progress: advanced by the images.

    Raises:
        InputError: fewer than two images on a side, of different sizes, or not uint8.
    """
    sides = {"real": real, "generated": generated}
    for side, images in sides.items():
        if images.dtype != torch.uint8 or images.ndim != 4 or len(images) < 2:
            actual = f"{images.dtype} {tuple(images.shape)}"
            raise InputError(f"{side} images are {actual}: at least two of (N, C, H, W) uint8 are needed")
    generated, real = (images.permute(0, 2, 3, 1) for images in (generated, real))
    return FrechetResult(**distribution_metrics(generated, real, extractor, progress=progress)["fd"])
