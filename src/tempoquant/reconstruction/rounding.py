"""Learned rounding (AdaRound, Nagel et al., ICML 2020; as used by BRECQ, Q-Diffusion, PTQD and TFMQ-DM)."""

import torch
from torch import Tensor, nn

from tempoquant.numerics import QParams

GAMMA, ZETA = -0.1, 1.1
WARM_UP = 0.2
REGULARIZER = 0.01
SUREST = 0.9


class SoftRounding(nn.Module):
    """The soft integers ``clamp(floor(w / s) + h(alpha) + z, q_min, q_max) - z`` of one weight.

    ``h(alpha) = clamp(sigmoid(alpha) (zeta - gamma) + gamma, 0, 1)`` with gamma = -0.1 and zeta = 1.1.

    Args:
        weight: full precision, any shape.
        qparams: fixed; scale and zero point broadcast against the weight.
        start: integers ``q - z`` of the weight's shape to start from (error-compensated ones, say), or None to start
            at the weight itself.
    """

    def __init__(self, weight: Tensor, qparams: QParams, start: Tensor | None = None):
        super().__init__()
        self.scale = qparams.scale
        zero = qparams.zero_point.float()
        self.low, self.high = qparams.q_min - zero, qparams.q_max - zero
        units = weight / self.scale
        if start is None:
            self.base = units.floor()
            soft = units - self.base
        else:
            up = (start >= units).float()
            self.base = start - up
            soft = (units - self.base).clamp(1 - SUREST, SUREST)
            soft = torch.where(up.bool(), soft.clamp(min=0.6), soft.clamp(max=0.4))
        self.alpha = nn.Parameter(-torch.log((ZETA - GAMMA) / (soft - GAMMA) - 1))

    def soft(self) -> Tensor:
        """h(alpha), in [0, 1]."""
        return (torch.sigmoid(self.alpha) * (ZETA - GAMMA) + GAMMA).clamp(0, 1)

    def weight(self) -> Tensor:
        """The soft weight in float32: differentiable in alpha."""
        return torch.clamp(self.base + self.soft(), self.low, self.high) * self.scale

    def integers(self) -> Tensor:
        """The hard integers ``q - z``: alpha >= 0 rounds up."""
        return torch.clamp(self.base + (self.alpha.detach() >= 0).float(), self.low, self.high)

    def penalty(self, beta: float) -> Tensor:
        """``sum(1 - |2 h - 1|^beta)``: pushes every h to 0 or 1."""
        return (1 - (2 * self.soft() - 1).abs().pow(beta)).sum()


def beta_at(iteration: int, iterations: int) -> float | None:
    """The regularizer's exponent: None during warm-up (first 20 %), then linearly from 20 to 2."""
    start = WARM_UP * iterations
    if iteration < start:
        return None
    return 2 + 18 * max(0.0, 1 - (iteration - start) / (iterations - start))


def reconstruction_loss(output: Tensor, target: Tensor, p: float = 2.0) -> Tensor:
    """Mean over batch and positions of the sum over dimension 1 of ``|y_hat - y|^p``."""
    error = output - target
    return (error.square() if p == 2 else error.abs().pow(p)).sum(1).mean()
