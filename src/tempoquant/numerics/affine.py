"""Uniform affine quantization: q = clamp(round(x / s) + z, q_min, q_max) and x_hat = s_out (q - z)."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from tempoquant.errors import InputError, TempoquantError
from tempoquant.numerics.spec import VALID_BITS

SMALLEST_SCALE = 1e-8


@dataclass(frozen=True, eq=False)
class QParams:
    """A quantizer: ``x_hat = output_scale (clamp(round(x / scale) + zero_point, q_min, q_max) - zero_point)``.

    Weights have one an output channel (or group), activations one a tensor, item or token; fields broadcast against
    each other.

    Attributes:
        scale: float32, positive.
        zero_point: integers, int32 or float32, so zero is on the grid and padding is exact.
        q_min, q_max: the grid's ends: ints, or float32 tensors where they may change with the step.
        output_scale: float32; the same tensor as ``scale`` except for quantizers with an output scale of their own
            (DuQ, QIL).
    """

    scale: Tensor
    zero_point: Tensor
    q_min: Any
    q_max: Any
    output_scale: Tensor = None  # type: ignore[assignment]

    def __post_init__(self) -> None:
        if self.output_scale is None:
            object.__setattr__(self, "output_scale", self.scale)

    def with_scale(self, scale: Tensor) -> "QParams":
        """The same grid with another scale for input and output."""
        return replace(self, scale=scale, output_scale=scale)

    def map(self, function: Callable[[Tensor], Tensor]) -> "QParams":
        """``function`` of every tensor; one scale for input and output stays one, since its gradients add up."""
        scale, zero_point, q_min, q_max = (
            function(field) if isinstance(field, Tensor) else field
            for field in (self.scale, self.zero_point, self.q_min, self.q_max)
        )
        out = scale if self.output_scale is self.scale else function(self.output_scale)
        return QParams(scale, zero_point, q_min, q_max, out)

    def unsigned(self) -> "QParams":
        """The same quantizer on the grid that starts at 0, with integers ``q - q_min``."""
        return QParams(self.scale, self.zero_point - self.q_min, 0, self.q_max - self.q_min, self.output_scale)

    def over(self, x: Tensor) -> "QParams":
        """Those of items, (B,), shaped to broadcast against ``x``; those of shape () as they are.

        Args:
            x: (B, ...) or (k B, ...), k to an item, e.g. heads folded in.

        Raises:
            TempoquantError: ``x`` has no multiple of B items.
        """
        if self.scale.dim() == 0:
            return self
        items = self.scale.numel()
        if x.shape[0] % items:
            raise TempoquantError(f"{items} time steps cannot be spread over an input of shape {tuple(x.shape)}")
        repeats, ones = x.shape[0] // items, (1,) * (x.dim() - 1)
        return self.map(lambda field: field if field.dim() == 0 else field.repeat_interleave(repeats).view(-1, *ones))


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
