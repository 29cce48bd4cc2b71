"""Intervals from the time step by a small network (TDQ, NeurIPS 2023, section 4 and its supplement).

``s_l(t) = softplus(MLP_l(enc(t)))``: one network a quantizer, all quantizers of a unit computed together.
"""

import math
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn.functional import softplus

from tempoquant.errors import TempoquantError
from tempoquant.intervals.clock import Clock
from tempoquant.intervals.interval import ConstantInterval, Interval, IntervalProvider, TableInterval
from tempoquant.numerics import QParams
from tempoquant.randomness import generator


@dataclass(frozen=True)
class Architecture:
    """A generator's shape.

    Attributes:
        hidden: widths of the hidden layers, ReLU after each. dropout: share of the last ones that is dropped.
        frequencies: length of the sinusoidal encoding of ``t``; 0 feeds ``t / T`` itself.
    """

    hidden: tuple[int, ...]
    frequencies: int
    dropout: float


ARCHITECTURES = {
    "tdq": Architecture(hidden=(64, 64, 64), frequencies=128, dropout=0.2),
    "thin": Architecture(hidden=(16, 16), frequencies=0, dropout=0.0),
}


def frequency_encoding(timestep: Tensor, length: int) -> Tensor:
    """``[cos(t w_j), sin(t w_j)]`` with ``w_j = 10000^(-j / (length / 2))``: (B,) -> (B, length)."""
    half = length // 2
    frequency = torch.exp(torch.arange(half, device=timestep.device) * (-math.log(10_000) / half))
    angle = timestep.float()[:, None] * frequency
    return torch.cat([angle.cos(), angle.sin()], 1)


class Generators(nn.Module):
    """The step sizes of L quantizers at any time step.

    Linear layers start as PyTorch's own; the last bias is ``softplus^-1(s_0)``, so that s(t) starts near ``s_0``.

    Args:
        scale: (L,) the calibrated step sizes ``s_0``.
        architecture: of every network. train_timesteps: T.
        key: names the random draw of the weights.
    """

    def __init__(self, scale: Tensor, architecture: Architecture, train_timesteps: int, key: tuple):
        super().__init__()
        self.architecture, self.train_timesteps = architecture, train_timesteps
        widths = (max(architecture.frequencies, 1), *architecture.hidden, 1)
        draws = generator(*key)
        self.weights, self.biases = nn.ParameterList(), nn.ParameterList()
        for fan_in, fan_out in pairwise(widths):
            for parameters, rows in ((self.weights, fan_in), (self.biases, 1)):
                uniform = torch.rand(scale.numel(), rows, fan_out, generator=draws) * 2 - 1
                parameters.append(nn.Parameter((uniform / fan_in**0.5).to(scale.device)))
        self.biases[-1].data = (scale + torch.log(-torch.expm1(-scale))).reshape(-1, 1, 1)
        self.current: Tensor | None = None

    def forward(self, timestep: Tensor, draws: torch.Generator | None = None) -> Tensor:
        """Step sizes: (L,) for a time step of shape (), (L, B) for (B,).

        Args:
            draws: random numbers for dropout, which acts in training only; None: no dropout.
        """
        h = self._encoded(timestep.reshape(-1)).expand(len(self.weights[0]), -1, -1)
        last = len(self.weights) - 1
        for i, (weight, bias) in enumerate(zip(self.weights, self.biases, strict=True)):
            h = torch.baddbmm(bias, h, weight)
            if i < last:
                h = h.relu()
            if i == last - 1 and draws is not None and self.architecture.dropout:
                kept = torch.rand(h.shape, generator=draws) >= self.architecture.dropout
                h = h * (kept.to(h.device) / (1 - self.architecture.dropout))
        return softplus(h).reshape(len(h), *timestep.shape)

    def set(self, timestep: Tensor, draws: torch.Generator | None = None) -> None:
        """Compute the step sizes that every :class:`GeneratedInterval` gives until the next call."""
        self.current = self(timestep, draws)

    def _encoded(self, timestep: Tensor) -> Tensor:
        if self.architecture.frequencies:
            return frequency_encoding(timestep, self.architecture.frequencies)
        return timestep.float()[:, None] / self.train_timesteps


class GeneratedInterval(IntervalProvider):
    """The interval of one quantizer of :class:`Generators`, one for every item of a batch; the zero point is fixed.

    Args:
        start: the calibrated interval it replaces.
        index: which of the generators is its own.
    """

    zero: Tensor

    def __init__(self, start: ConstantInterval, generators: Generators, index: int, clock: Clock):
        super().__init__(start.bits, int(start.q_min), int(start.q_max))
        self.register_buffer("zero", start.zero)
        self.generators, self.index, self.clock = generators, index, clock

    def at(self, row: Tensor | None) -> Interval:
        if row is None:
            raise TempoquantError("a generated interval was asked for without a time step")
        return self._of(self.generators(self.clock.timesteps.to(row.device)[row])[self.index])

    def forward(self) -> Interval:
        if self.generators.current is None:
            raise TempoquantError("a generated interval was asked for before its generators were set to a time step")
        return self._of(self.generators.current[self.index])

    def _of(self, scale: Tensor) -> Interval:
        return Interval(scale, self.zero, scale, self.q_min, self.q_max)

    def fold(self) -> TableInterval:
        """The same intervals as a table, one a row: what stays once learning is over."""
        with torch.no_grad():
            scale = self.generators(self.clock.timesteps)[self.index]
        grid = int(self.q_min), int(self.q_max)
        return TableInterval(QParams(scale, self.zero.expand_as(scale).clone(), *grid), self.bits, self.clock)
