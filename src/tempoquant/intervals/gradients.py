"""Fake quantization whose step sizes can learn (LSQ, Esser et al., ICLR 2020; as BRECQ and Q-Diffusion use it)."""

from typing import Any

import torch
from torch import Tensor

from tempoquant.numerics import QParams, quantize


def fake_quantize(x: Tensor, qparams: QParams) -> Tensor:
    """``x_hat = s_out (clamp(round(x / s_in) + z, q_min, q_max) - z)``, float32 of x's shape, with gradients.

    With ``v = clamp(round(x / s_in) + z, ...) - z``: inside the grid ``dx_hat/dx = s_out / s_in`` and ``dx_hat/ds_in =
    -s_out x / s_in^2``; where it is clamped both are 0, and ``dx_hat/dz = -s_out``. Everywhere ``dx_hat/ds_out = v``.
    With one scale for both this is LSQ's rule, ``v - x / s`` inside and ``v`` outside. No further gradient scale.

    Args:
        x: any float dtype and shape.
        qparams: shaped to broadcast over x; scales and zero point receive gradients where they require them.
    """
    s_out = None if qparams.output_scale is qparams.scale else qparams.output_scale
    return _StraightThrough.apply(x.float(), qparams.scale, qparams.zero_point, s_out, qparams.q_min, qparams.q_max)


class _StraightThrough(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, x: Tensor, scale: Tensor, zero: Tensor, s_out: Tensor | None, q_min: Tensor, q_max: Tensor
    ) -> Tensor:
        v = quantize(x, scale, zero, q_min, q_max).sub_(zero)
        ctx.save_for_backward(x, scale, zero, s_out, v)
        return v * (scale if s_out is None else s_out)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, scale, zero, s_out, v = ctx.saved_tensors
        units = x / scale
        inside = units.round() == v
        by_scale, by_zero, by_out = None, None, None
        if ctx.needs_input_grad[2]:
            by_zero = -(grad * ~inside * (scale if s_out is None else s_out)).sum_to_size(zero.shape)
        if s_out is None:
            if ctx.needs_input_grad[1]:
                by_scale = (grad * (v - units * inside)).sum_to_size(scale.shape)
            return grad * inside, by_scale, by_zero, None, None, None
        through = grad * inside * (s_out / scale)
        if ctx.needs_input_grad[1]:
            by_scale = -(through * units).sum_to_size(scale.shape)
        if ctx.needs_input_grad[3]:
            by_out = (grad * v).sum_to_size(s_out.shape)
        return through, by_scale, by_zero, by_out, None, None
