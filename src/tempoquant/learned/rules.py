"""Gradient rules that torch has no operator for: what the forward pass shows is not what the backward pass sees."""

from typing import Any

import torch
from torch import Tensor


def straight_round(x: Tensor) -> Tensor:
    """``round(x)`` whose gradient is 1."""
    return _Shown.apply(x, x.round())


def shown_as(x: Tensor, value: Tensor) -> Tensor:
    """``value``, exactly; its gradient goes to ``x``, of the same shape."""
    return _Shown.apply(x, value)


def scaled_gradient(x: Tensor, factor: float) -> Tensor:
    """``x`` whose gradient is multiplied by ``factor`` (LSQ, section 2.2: ``g = 1 / sqrt(N Q_p)``)."""
    return _Scaled.apply(x, factor)


class _Shown(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, value: Tensor) -> Tensor:
        return value.clone()

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        return grad, None


class _Scaled(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, factor: float) -> Tensor:
        ctx.factor = factor
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        return grad * ctx.factor, None
