"""A model of quantization noise (PTQD, He et al., NeurIPS 2023, section 4.2): a part that follows e, and the rest.

The quantized prediction is ``q = (1 + k) e + D'`` at every time step: k is the slope of the regression of ``D = q - e``
on e over all samples, channels and pixels, and the residual D' has a mean by channel and one variance.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from tempoquant.correction.sums import PairSums


class QuantizationNoise(NamedTuple):
    """The quantization noise at each of R time steps, float64.

    Attributes:
        k: (R,) slopes, shrunk.
        r2: (R,) the share of D's variance that the slope explains.
        bias: (R, C) the mean of ``D - max(k, 0) e`` by channel.
        variance: (R,) the variance of D' around its channel means.
    """

    k: Tensor
    r2: Tensor
    bias: Tensor
    variance: Tensor


def quantization_noise(sums: PairSums) -> QuantizationNoise:
    """Fit the noise model ``q = (1 + k) e + D'`` to sums over pairs of predictions.

    Slopes are shrunk by their t-statistic, ``k t^2 / (1 + t^2)`` with pixels taken as independent, so that one that
    few pairs support does little. The bias is that of the residual: the public code takes the mean of D itself, and
    divides by 1 + k all the same.
    """
    count, e, q, ee, qq, eq = sums.by_channel()
    d, ed, dd = q - e, eq - ee, qq - 2 * eq + ee
    n = count.sum(1)
    covariance = ed.sum(1) / n - (e.sum(1) / n) * (d.sum(1) / n)
    variance_e = ee.sum(1) / n - (e.sum(1) / n) ** 2
    variance_d = dd.sum(1) / n - (d.sum(1) / n) ** 2
    r2 = _ratio(covariance**2, variance_e * variance_d).clamp(max=1)
    k = _ratio(covariance, variance_e) * _ratio((n - 2) * r2, (n - 2) * r2 + 1 - r2)
    undone, slope = k.clamp_min(0)[:, None], k[:, None]
    bias = (d - undone * e) / count
    squares = dd - 2 * slope * ed + slope**2 * ee - (d - slope * e) ** 2 / count
    return QuantizationNoise(k, r2, bias, (squares.sum(1) / n).clamp_min(0))


def least_squares_gain(sums: PairSums) -> Tensor:
    """(R, C) ``K = <e, q> / <q, q>`` by channel: the one factor that brings q nearest to e (as in TAC-Diffusion)."""
    _, _, _, _, qq, eq = sums.by_channel()
    return torch.where(qq > 0, eq / qq.clamp_min(torch.finfo(torch.float64).tiny), 1.0)


def _ratio(part: Tensor, whole: Tensor) -> Tensor:
    """``part / whole``, 0 where both are too small to tell."""
    return torch.where(whole > 0, part / whole.clamp_min(torch.finfo(torch.float64).tiny), 0.0)
