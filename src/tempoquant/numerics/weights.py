"""Weight grids: one scale and zero point an output channel, always containing zero."""

import torch
from torch import Tensor

from tempoquant.extension import WEIGHT_RANGES
from tempoquant.numerics.affine import QParams, affine_qparams, quantize
from tempoquant.numerics.search import minmax_range, mse_range

WEIGHT_RANGES.register("mse")(mse_range)


@WEIGHT_RANGES.register("minmax")
def _minmax(rows: Tensor, bits: int, symmetric: bool) -> tuple[Tensor, Tensor]:
    return minmax_range(rows)


def weight_qparams(weight: Tensor, bits: int, symmetric: bool, search: str) -> QParams:
    """Per-channel scale and zero point of a weight (C_out, ...), on an unsigned grid.

    Args:
        search: a name of :data:`WEIGHT_RANGES`, such as "minmax", or "mse" (p = 2.4, 80 candidates).
    """
    rows = weight.detach().float().flatten(1)
    low, high = WEIGHT_RANGES[search](rows, bits, symmetric)
    signed = affine_qparams(low, high, bits, symmetric)
    zero = signed.zero_point - signed.q_min
    return QParams(signed.scale, zero.to(torch.int32), 0, signed.q_max - signed.q_min)


def nearest(weight: Tensor, qparams: QParams) -> Tensor:
    """``q - z`` of rounding to nearest, integer-valued float32 of the weight's shape."""
    shape = (-1,) + (1,) * (weight.dim() - 1)
    zero = qparams.zero_point.view(shape)
    return quantize(weight.float(), qparams.scale.view(shape), zero, qparams.q_min, qparams.q_max) - zero
