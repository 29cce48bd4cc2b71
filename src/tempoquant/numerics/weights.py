"""Weight grids: a scale and a zero point for every output channel and group of its inputs, always containing zero."""

import torch
from torch import Tensor

from tempoquant.extension import WEIGHT_RANGES
from tempoquant.numerics.affine import QParams, affine_qparams, quantize
from tempoquant.numerics.search import minmax_range, mse_range

WEIGHT_RANGES.register("mse")(mse_range)


@WEIGHT_RANGES.register("minmax")
def _minmax(rows: Tensor, bits: int, symmetric: bool) -> tuple[Tensor, Tensor]:
    return minmax_range(rows)


def weight_qparams(weight: Tensor, bits: int, symmetric: bool, search: str, groups: int = 1) -> QParams:
    """Scale (float32) and zero point (int32) of a weight, (C_out, G) each, on an unsigned grid.

    Args:
        weight: (C_out, ...), any float dtype.
        bits: width of the integers.
        symmetric: zero points in the middle of the grid.
        search: a name of :data:`WEIGHT_RANGES`, such as "minmax", or "mse" (p = 2.4, 80 candidates).
        groups: G, equal runs of each channel's weights, in row-major order. 1: one scale a channel.
    """
    rows = weight.detach().float().reshape(weight.shape[0] * groups, -1)
    low, high = WEIGHT_RANGES[search](rows, bits, symmetric)
    signed = affine_qparams(low.view(-1, groups), high.view(-1, groups), bits, symmetric)
    zero = signed.zero_point - signed.q_min
    return QParams(signed.scale, zero.to(torch.int32), 0, signed.q_max - signed.q_min)


def nearest(weight: Tensor, qparams: QParams) -> Tensor:
    """``q - z`` of rounding to nearest, integer-valued float32 of the weight's shape.

    Args:
        weight: (C_out, ...), any float dtype.
        qparams: from :func:`weight_qparams`, (C_out, G).
    """
    rows = weight.float().flatten(1)
    scale, zero = over_rows(qparams.scale, rows.shape[1]), over_rows(qparams.zero_point, rows.shape[1])
    return (quantize(rows, scale, zero, qparams.q_min, qparams.q_max) - zero).view_as(weight)


def over_rows(values: Tensor, length: int) -> Tensor:
    """Values of every channel and group, (C_out, G), that broadcast against rows (C_out, ``length``)."""
    groups = values.shape[1]
    return values if groups == 1 else values.repeat_interleave(length // groups, 1)
