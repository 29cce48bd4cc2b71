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
from tempoquant.evaluation.statistics import BATCH, told
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
    """Metrics of a set of images, as plain JSON data.

    Args:
        images: (N, H, W, C) uint8 with C 1 or 3, as ``to_images`` gives them.
        reference: real images or their statistics, see :func:`open_reference`; ``is`` and ``clip`` need none.
        extractor: its name in ``EXTRACTORS``, or one that is loaded.
        metrics: of fd (FID), sfd (sFID), is, kid, pr (precision and recall), clip.
        prompts: one an image, for ``clip``. clip: a local folder or hub id of a CLIP model.
        cache: where statistics of the reference are kept between calls; None to compute them each time.
        seed: of KID's random subsets.

    Returns:
        A dictionary a metric, by key, each with its ``name``, value and counts; ``generated``, the images; and the
        ``extractor`` and ``reference`` with their hashes and preprocessing.

    Raises:
        InputError: before any work, for whatever is missing or does not fit.
    """
    given = TensorImages(images, "the generated images")
    plan = plan_metrics(metrics, extractor=extractor, reference=reference, clip=clip, cache=cache)
    if plan.compares and plan.reference is None:
        raise InputError(f"{', '.join(plan.metrics)}: a reference is needed")
    plan.check(given.shape, len(given), prompts)
    real = plan.real_statistics(progress)
    with (progress or Silent()).stage("image features", len(given)) as advance:
        return plan.measure(told(given.batches(BATCH), advance), real=real, prompts=prompts, seed=seed)


@dataclass(frozen=True)
class FrechetResult:
    """A Frechet distance, with what it depends on; it compares only with others of the same name and counts.

    Attributes:
        name: ``FD-<extractor>``; FID is the name of the distance on the published Inception weights alone.
        real, generated: images on each side. dimensions: of the features.
    """

    name: str
    value: float
    real: int
    generated: int
    dimensions: int

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON data."""
        return asdict(self)


def frechet_distance(
    real: Tensor, generated: Tensor, extractor: FeatureExtractor, *, progress: Progress | None = None
) -> FrechetResult:
    """The metric ``fd`` alone, of two sets in memory (Heusel et al. 2017).

    Biased by the number of images: never compare results of different counts.

    Args:
        real, generated: (N, C, H, W) uint8.

    Raises:
        InputError: fewer than two images on a side, of different sizes, or not uint8.
    """
    sides = {"real": real, "generated": generated}
    for side, images in sides.items():
        if images.dtype != torch.uint8 or images.ndim != 4 or len(images) < 2:
            found = f"{images.dtype} {tuple(images.shape)}"
            raise InputError(f"{side} images are {found}: at least two of (N, C, H, W) uint8 are needed")
    ours, theirs = (images.permute(0, 2, 3, 1) for images in (generated, real))
    return FrechetResult(**distribution_metrics(ours, theirs, extractor, progress=progress)["fd"])
