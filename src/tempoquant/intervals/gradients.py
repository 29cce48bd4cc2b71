"""Fake quantization whose step size can learn (LSQ, Esser et al., ICLR 2020; as BRECQ and Q-Diffusion use it)."""

from typing import Any

import torch
from torch import Tensor

from tempoquant.intervals.interval import Interval
from tempoquant.numerics import quantize


def fake_quantize(x: Tensor, interval: Interval) -> Tensor:
    """``x_hat = s (clamp(round(x / s) + z, q_min, q_max) - z)``, float32 of x's shape, with straight-through gradients.

    With ``v = clamp(round(x / s) + z, ...) - z``: inside the grid ``dx_hat/dx = 1`` and ``dx_hat/ds = v - x / s``;
    where it is clamped 0 and ``v``. No further gradient scale, as in the BRECQ family.

    Args:
        interval: with ``s_out = s_in``, shaped to broadcast over x; its scale receives the gradient.
    """
    return _StraightThrough.apply(x.float(), interval.s_in, interval.zero, interval.q_min, interval.q_max)


class _StraightThrough(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, scale: Tensor, zero: Tensor, q_min: Tensor, q_max: Tensor) -> Tensor:
        v = quantize(x, scale, zero, q_min, q_max).sub_(zero)
        ctx.save_for_backward(x, scale, v)
        return v * scale

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, scale, v = ctx.saved_tensors
        units = x / scale
        inside = units.round() == v
        by_scale = None
        if ctx.needs_input_grad[1]:
            by_scale = (grad * (v - units * inside)).sum_to_size(scale.shape)
        return grad * inside, by_scale, None, None, None
