"""Frechet distances between sets of images, with any feature extractor."""

import importlib
import warnings
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor, nn

from tempoquant.errors import InputError
from tempoquant.evaluation.extractors import FeatureExtractor
from tempoquant.progress import Progress, Silent


@dataclass(frozen=True)
class FrechetResult:
    """A Frechet distance, with what it depends on; it compares only with others of the same name and counts.

    Attributes:
        name: ``FD-<extractor>``; FID is the name of the Inception-v3 distance alone.
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
    real: Tensor,
    generated: Tensor,
    extractor: FeatureExtractor,
    *,
    batch_size: int = 64,
    progress: Progress | None = None,
) -> FrechetResult:
    """Frechet distance of Gaussians fitted to features: ``|m1 - m2|^2 + tr(C1 + C2 - 2 (C1 C2)^(1/2))``.

    Heusel et al. 2017, computed by torchmetrics in float64. Biased by the number of images: never compare results of
    different counts.

    Args:
        real, generated: (N, C, H, W) uint8.

    Raises:
        InputError: fewer than two images on a side, images are no uint8, or torchmetrics is not installed.
    """
    for side, images in (("real", real), ("generated", generated)):
        if images.dtype != torch.uint8 or images.ndim != 4 or len(images) < 2:
            found = f"{images.dtype} {tuple(images.shape)}"
            raise InputError(f"{side} images are {found}: at least two of (N, C, H, W) uint8 are needed")
    network = _Network(extractor, extractor(real[:1]).shape[1])
    metric = _fid_class()(feature=network)
    fewest = min(len(real), len(generated))
    if fewest <= network.num_features:
        text = (
            f"FD-{extractor.name} of {fewest} images with {network.num_features} feature dimensions: the covariance is"
        )
        warnings.warn(f"{text} singular and the distance unreliable; use more images", UserWarning, stacklevel=2)
    with (progress or Silent()).stage("image features", len(real) + len(generated)) as advance:
        for images, is_real in ((real, True), (generated, False)):
            for batch in images.split(batch_size):
                metric.update(batch, real=is_real)
                advance(len(batch))
    value = float(metric.compute())
    return FrechetResult(f"FD-{extractor.name}", value, len(real), len(generated), network.num_features)


class _Network(nn.Module):
    """An extractor as the module that torchmetrics asks for; float64 features keep its result float64."""

    def __init__(self, extractor: FeatureExtractor, num_features: int):
        super().__init__()
        self.extractor, self.num_features = extractor, num_features

    def forward(self, images: Tensor) -> Tensor:
        return self.extractor(images).double()


def _fid_class() -> Any:
    try:
        return importlib.import_module("torchmetrics.image.fid").FrechetInceptionDistance
    except ImportError as error:
        raise InputError("Frechet distances need torchmetrics: pip install tempoquant[eval]") from error
