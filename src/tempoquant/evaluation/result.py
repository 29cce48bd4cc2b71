"""Paired metrics of a comparison, as data."""

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from torch import Tensor


@dataclass(frozen=True)
class PairedMetrics:
    """Paired metrics of a quantized denoiser against full precision.

    Attributes:
        psnr: of each image, dB; None if samples are no images.
        ssim: of each image; None if samples are no images, or too small.
        data_range: of PSNR and SSIM: 2, or that of the reference images if they leave [-2, 2].
        relative_error: ``|x - x'| / |x|`` of each sample.
        timesteps: of the K denoiser calls, in step order.
        sqnr_steps: SQNR of the predicted noise at each call, dB.
        sqnr: over all calls, dB.
        cosine: by projection, of its temporal feature with full precision at each call.
        images: the quantized model's, as ``Model.generate`` gives them; not part of :meth:`to_dict`.
        temporal_mismatch: share over unique time steps and projections, 0 to 1; None without projections.
    """

    psnr: list[float] | None
    ssim: list[float] | None
    data_range: float | None
    relative_error: list[float]
    timesteps: list[float]
    sqnr_steps: list[float]
    sqnr: float
    cosine: dict[str, list[float]]
    temporal_mismatch: float | None
    images: Tensor | None = None

    @property
    def cosine_mean(self) -> float | None:
        """Mean temporal feature cosine over calls and projections."""
        values = [value for row in self.cosine.values() for value in row]
        return float(np.mean(values)) if values else None

    @property
    def cosine_min(self) -> float | None:
        """Smallest temporal feature cosine of any call and projection."""
        return min((value for row in self.cosine.values() for value in row), default=None)

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON data; infinite values (equal images) become None, because JSON has no infinity.

        A metric that these samples do not have is None as a whole.
        """
        return {
            "psnr": None if self.psnr is None else _summary(self.psnr),
            "ssim": None if self.ssim is None else _summary(self.ssim),
            "data_range": self.data_range,
            "relative_error": _summary(self.relative_error),
            "sqnr": {"db": _plain(self.sqnr), "per_step": [_plain(v) for v in self.sqnr_steps]},
            "timesteps": self.timesteps,
            "cosine": {"mean": self.cosine_mean, "min": self.cosine_min, "per_projection": self.cosine},
            "temporal_mismatch": self.temporal_mismatch,
        }


def _summary(values: list[float]) -> dict[str, Any]:
    """Mean, standard deviation over images (of the images, so divided by N), and each."""
    finite = all(math.isfinite(value) for value in values)
    mean = float(np.mean(values)) if finite else None
    std = float(np.std(values)) if finite else None
    return {"mean": mean, "std": std, "per_image": [_plain(value) for value in values]}


def _plain(value: float) -> float | None:
    return value if math.isfinite(value) else None
