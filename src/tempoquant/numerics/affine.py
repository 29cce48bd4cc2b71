"""Uniform affine quantization: q = clamp(round(x / s) + z, q_min, q_max) and x_hat = s (q - z)."""

from typing import NamedTuple

import torch
from torch import Tensor

from tempoquant.errors import InputError
from tempoquant.numerics.spec import VALID_BITS

SMALLEST_SCALE = 1e-8


class QParams(NamedTuple):
    """Scale (float32), zero point (int32) of one common shape, and the integer grid they live on."""

    scale: Tensor
    zero: Tensor
    q_min: int
    q_max: int


def grid(bits: int, symmetric: bool = False) -> tuple[int, int]:
    """The integers of a quantizer: ``(0, 2^b - 1)``, or ``(-2^(b-1), 2^(b-1) - 1)`` when symmetric.

    Raises:
        InputError: ``bits`` is not one of 2..8 and 16.
    """
    if bits not in VALID_BITS:
        raise InputError(f"bits = {bits} is not supported: valid are 2 to 8, and 16")
    return (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1) if symmetric else (0, 2**bits - 1)


def affine_qparams(low: Tensor, high: Tensor, bits: int, symmetric: bool = False) -> QParams:
    """Scale and zero point that cover ``[low, high]``, widened to contain zero so that zero is on the grid.

    Args:
        low, high: range ends, float, any common shape.
        bits: width.
        symmetric: z = 0 and s = max(|low|, |high|) / (2^(b-1) - 1).
    """
    q_min, q_max = grid(bits, symmetric)
    low, high = low.float().clamp(max=0), high.float().clamp(min=0)
    if symmetric:
        scale = (torch.maximum(-low, high) / q_max).clamp(min=SMALLEST_SCALE)
        return QParams(scale, torch.zeros_like(scale, dtype=torch.int32), q_min, q_max)
    scale = ((high - low) / q_max).clamp(min=SMALLEST_SCALE)
    zero = torch.round(-low / scale).clamp(q_min, q_max).to(torch.int32)
    return QParams(scale, zero, q_min, q_max)


def quantize(x: Tensor, scale: Tensor, zero: Tensor, q_min: int | Tensor, q_max: int | Tensor) -> Tensor:
    """``clamp(round(x / s) + z, q_min, q_max)`` as integer-valued floats of x's shape; s and z broadcast to x.

    Rounding is to nearest, ties to even, as in ``torch.round`` and the integer kernels.
    """
    q = torch.round(x / scale).add_(zero)
    return torch.clamp(q, q_min, q_max)  # type: ignore[arg-type]


def dequantize(q: Tensor, scale: Tensor, zero: Tensor) -> Tensor:
    """``s (q - z)`` in float32."""
    return (q - zero).float() * scale
