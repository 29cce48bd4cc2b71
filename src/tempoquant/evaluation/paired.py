"""Paired metrics of two models' outputs from the same noise: no reference data and few samples are needed."""

from collections.abc import Mapping

import torch
from torch import Tensor
from torch.nn import functional

from tempoquant.errors import InputError
from tempoquant.evaluation.ranges import PIXEL_RANGE
from tempoquant.evaluation.shapes import SSIM_WINDOW

SSIM_SIGMA = 1.5
SSIM_K1, SSIM_K2 = 0.01, 0.03


def psnr(full: Tensor, quantized: Tensor, data_range: float = PIXEL_RANGE) -> Tensor:
    """Peak signal-to-noise ratio of every image in dB, (N,) float64: ``10 log10(data_range^2 / MSE)``.

    Equal images give infinity.

    Args:
        full: (N, C, H, W).
        quantized: (N, C, H, W).
        data_range: greatest minus least possible pixel value.

    Raises:
        InputError: shapes differ.
    """
    _check_pair(full, quantized)
    error = (full.double() - quantized.double()).flatten(1).square().mean(1)
    return 10 * torch.log10(data_range**2 / error)


def ssim(full: Tensor, quantized: Tensor, data_range: float = PIXEL_RANGE) -> Tensor:
    """Structural similarity of every image, (N,) float64, 1 for equal images (Wang et al. 2004, eq. 13).

    ``(2 m_x m_y + c1) (2 s_xy + c2) / ((m_x^2 + m_y^2 + c1) (s_x^2 + s_y^2 + c2))`` over Gaussian windows of 11x11 and
    sigma 1.5 that lie within the image, averaged over windows and channels; ``c_i = (K_i data_range)^2``.

    Args:
        full: (N, C, H, W), sides of at least 11.
        quantized: (N, C, H, W).
        data_range: greatest minus least possible pixel value.

    Raises:
        InputError: shapes differ, or an image is smaller than the window.
    """
    _check_pair(full, quantized)
    if full.ndim != 4 or min(full.shape[-2:]) < SSIM_WINDOW:
        raise InputError(f"SSIM needs (N, C, H, W) with sides of at least {SSIM_WINDOW}, not {tuple(full.shape)}")
    x, y = full.double(), quantized.double()
    c1, c2 = (SSIM_K1 * data_range) ** 2, (SSIM_K2 * data_range) ** 2
    mean_x, mean_y = _windowed(x), _windowed(y)
    var_x = _windowed(x * x) - mean_x**2
    var_y = _windowed(y * y) - mean_y**2
    cov = _windowed(x * y) - mean_x * mean_y
    likeness = (2 * mean_x * mean_y + c1) * (2 * cov + c2)
    return (likeness / ((mean_x**2 + mean_y**2 + c1) * (var_x + var_y + c2))).flatten(1).mean(1)


def relative_error(full: Tensor, quantized: Tensor) -> Tensor:
    """``|x - x'| / |x|`` of every sample, (N,) float64, 0 for equal ones.

    Args:
        full: (N, ...), samples of any shape.
        quantized: (N, ...).

    Raises:
        InputError: shapes differ.
    """
    _check_pair(full, quantized)
    error, power = (x.double().flatten(1).norm(dim=1) for x in (full.double() - quantized.double(), full))
    return error / power.clamp_min(torch.finfo(torch.float64).tiny)


def sqnr_db(signal: Tensor, noisy: Tensor) -> float:
    """Signal-to-quantization-noise ratio in dB over all elements: ``10 log10(sum s^2 / sum (s - n)^2)``.

    Args:
        signal: s, of any shape.
        noisy: n, of the same shape.

    Raises:
        InputError: shapes differ.
    """
    _check_pair(signal, noisy)
    power, error = signal.double().square().sum(), (signal.double() - noisy.double()).square().sum()
    return float(10 * torch.log10(power / error))


def cosine(full: Tensor, quantized: Tensor) -> Tensor:
    """Cosine similarity of corresponding rows, (R,) float64: ``<a, b> / (|a| |b|)`` (TFMQ-DM, of temporal features).

    1 for two zero rows, 0 for one.

    Args:
        full: (R, d).
        quantized: (R, d).

    Raises:
        InputError: shapes differ.
    """
    _check_pair(full, quantized)
    a, b = full.double(), quantized.double()
    lengths = a.norm(dim=1) * b.norm(dim=1)
    both_zero = (a.norm(dim=1) == 0) & (b.norm(dim=1) == 0)
    return torch.where(both_zero, 1.0, (a * b).sum(1) / lengths.clamp_min(torch.finfo(torch.float64).tiny))


def temporal_mismatch(full: Tensor, quantized: Tensor) -> float:
    """Share of rows whose quantized feature is nearer to another row's full-precision feature than to that of its row.

    TFMQ-DM (CVPR 2024, section 3): quantization turns the feature of one time step into that of another. Distance is
    Euclidean; a tie is no mismatch.

    Args:
        full: (R, d), one row a time step.
        quantized: (R, d), likewise.
    """
    nearest = nearest_rows(full, quantized)
    return float((nearest != torch.arange(len(nearest), device=nearest.device)).double().mean())


def nearest_rows(full: Tensor, quantized: Tensor) -> Tensor:
    """For every quantized feature the row of the full-precision feature nearest to it, (R,) int64.

    Distance is Euclidean; of equally near rows the same row, else the first.

    Args:
        full: (R, d), one row a time step.
        quantized: (R, d), likewise.
    """
    _check_pair(full, quantized)
    # Not through matrix products: their cancellation would make near neighbours of equal ones.
    distances = torch.cdist(quantized.double(), full.double(), compute_mode="donot_use_mm_for_euclid_dist")
    rows = torch.arange(len(full), device=full.device)
    return torch.where(distances.diagonal() > distances.amin(1), distances.argmin(1), rows)


def temporal_mismatch_of(full: Mapping[str, Tensor], quantized: Mapping[str, Tensor]) -> float:
    """Mean of :func:`temporal_mismatch` over projections.

    Args:
        full: (R, d) by projection, with the same R rows.
        quantized: likewise.
    """
    shares = [temporal_mismatch(full[name], quantized[name]) for name in full]
    return sum(shares) / len(shares)


def _windowed(x: Tensor) -> Tensor:
    """Gaussian-weighted means of all windows within the image, by one pass along each side."""
    offsets = torch.arange(SSIM_WINDOW, dtype=x.dtype, device=x.device) - SSIM_WINDOW // 2
    weights = torch.exp(-offsets.square() / (2 * SSIM_SIGMA**2))
    weights = weights / weights.sum()
    planes = x.reshape(-1, 1, *x.shape[-2:])
    planes = functional.conv2d(functional.conv2d(planes, weights.reshape(1, 1, -1, 1)), weights.reshape(1, 1, 1, -1))
    return planes.reshape(*x.shape[:2], *planes.shape[-2:])


def _check_pair(a: Tensor, b: Tensor) -> None:
    if a.shape != b.shape or a.numel() == 0:
        raise InputError(f"a pair of equal, non-empty shapes is needed, not {tuple(a.shape)} and {tuple(b.shape)}")
