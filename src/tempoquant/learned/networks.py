"""Intervals from the time step by a small network (TDQ, NeurIPS 2023, section 4 and its supplement).

``s_l(t) = softplus(MLP_l(enc(t)))``: one network a quantizer, all quantizers together in one batched computation.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn.functional import softplus

from tempoquant.randomness import rng


@dataclass(frozen=True)
class Architecture:
    """A generator's shape.

    Attributes:
        hidden: widths of the hidden layers, ReLU after each.
        encoding: of the time step, a name of :data:`ENCODINGS`.
        dropout: share of the last hidden layer that is dropped.
        initialization: a name of :data:`INITIALIZATIONS`.
        statistics: numbers about the quantizer's input that come before the encoding.
    """

    hidden: tuple[int, ...]
    encoding: str
    dropout: float
    initialization: str = "he"
    statistics: int = 0


ARCHITECTURES = {
    "tdq": Architecture(hidden=(64, 64, 64), encoding="frequency", dropout=0.2),
    "thin": Architecture(hidden=(16, 16), encoding="normalized", dropout=0.0),
}

FREQUENCIES = 128
"""Length of an encoding by frequencies: the width of the papers' UNet."""


def frequency_encoding(timestep: Tensor, length: int) -> Tensor:
    """``[cos(t w_j), sin(t w_j)]`` with ``w_j = 10000^(-j / (length / 2))``: (B,) -> (B, length)."""
    half = length // 2
    frequency = torch.exp(torch.arange(half, device=timestep.device) * (-math.log(10_000) / half))
    angle = timestep.float()[:, None] * frequency
    return torch.cat([angle.cos(), angle.sin()], 1)


def random_fourier_encoding(timestep: Tensor, train_timesteps: int) -> Tensor:
    """``[cos(2 pi f_j t / T), sin(2 pi f_j t / T)]``, f_j fixed draws of a normal distribution: (B,) -> (B, 128)."""
    frequency = torch.randn(FREQUENCIES // 2, generator=rng("random fourier")).to(timestep.device)
    angle = 2 * math.pi / train_timesteps * timestep.float()[:, None] * frequency
    return torch.cat([angle.cos(), angle.sin()], 1)


ENCODINGS: dict[str, tuple[int, Callable[[Tensor, int], Tensor]]] = {
    "frequency": (FREQUENCIES, lambda t, train_timesteps: frequency_encoding(t, FREQUENCIES)),
    "normalized": (1, lambda t, train_timesteps: t.float()[:, None] / train_timesteps),
    "fourier": (FREQUENCIES, random_fourier_encoding),
    "none": (1, lambda t, train_timesteps: t.float()[:, None]),
    "absent": (0, lambda t, train_timesteps: t.new_empty(t.numel(), 0, dtype=torch.float32)),
}
"""Encoding name -> its length, and ``f(t (B,), T) -> (B, length)``. "none" is t itself, "absent" leaves t out."""


def softplus_inverse(value: Tensor) -> Tensor:
    """``x`` of ``softplus(x) = value``, for positive values: ``log(exp(value) - 1)`` without overflow."""
    return value + torch.log(-torch.expm1(-value))


def _he(weight: Tensor, bias: Tensor, draws: torch.Generator, last: bool) -> None:
    """PyTorch's own for Linear layers, which is the papers' code's."""
    for part in (weight, bias):
        part.copy_((torch.rand(part.shape, generator=draws) * 2 - 1) / weight.shape[1] ** 0.5)


def _xavier(weight: Tensor, bias: Tensor, draws: torch.Generator, last: bool) -> None:
    reach = (6 / (weight.shape[1] + weight.shape[2])) ** 0.5
    weight.copy_((torch.rand(weight.shape, generator=draws) * 2 - 1) * reach)


def _zero(weight: Tensor, bias: Tensor, draws: torch.Generator, last: bool) -> None:
    """As He, with a last layer of zeros: s(t) starts at ``s_0`` exactly."""
    _he(weight, bias, draws, last)
    if last:
        weight.zero_()


def _gaussian(weight: Tensor, bias: Tensor, draws: torch.Generator, last: bool) -> None:
    weight.copy_(torch.randn(weight.shape, generator=draws))


INITIALIZATIONS: dict[str, Callable[[Tensor, Tensor, torch.Generator, bool], None]] = {
    "he": _he,
    "xavier": _xavier,
    "zero": _zero,
    "gaussian": _gaussian,
}
"""Name -> ``f(weight (L, in, out), bias (L, 1, out), draws, last layer?)``, in place; the last bias is set after it."""


class IntervalNetworks(nn.Module):
    """The step sizes of L quantizers at any time step.

    The last bias is ``softplus^-1(s_0)``, so that s(t) starts near ``s_0`` (at it with the initialization "zero").

    Args:
        scale: (L,) the calibrated step sizes ``s_0``.
        architecture: of every network.
        train_timesteps: T, the length of the training schedule.
        key: names the random draw of the weights.
    """

    def __init__(self, scale: Tensor, architecture: Architecture, train_timesteps: int, key: tuple):
        super().__init__()
        self.architecture, self.train_timesteps = architecture, train_timesteps
        length, self.encode = ENCODINGS[architecture.encoding]
        widths = (length + architecture.statistics, *architecture.hidden, 1)
        draws = rng(*key)
        self.weights, self.biases = nn.ParameterList(), nn.ParameterList()
        for i, (fan_in, fan_out) in enumerate(pairwise(widths)):
            weight, bias = torch.zeros(scale.numel(), fan_in, fan_out), torch.zeros(scale.numel(), 1, fan_out)
            INITIALIZATIONS[architecture.initialization](weight, bias, draws, i == len(widths) - 2)
            self.weights.append(nn.Parameter(weight.to(scale.device)))
            self.biases.append(nn.Parameter(bias.to(scale.device)))
        self.biases[-1].data = softplus_inverse(scale).reshape(-1, 1, 1)

    def forward(self, timestep: Tensor, draws: torch.Generator | None = None) -> Tensor:
        """Step sizes: (L,) for a time step of shape (), (L, B) for (B,).

        Args:
            timestep: () or (B,).
            draws: random numbers for dropout, which acts in training only; None: no dropout.
        """
        h = self.encode(timestep.reshape(-1), self.train_timesteps).expand(len(self.weights[0]), -1, -1)
        return self._networks(h, slice(None), draws).reshape(len(h), *timestep.shape)

    def of_input(self, index: int, statistics: Tensor, timestep: Tensor, draws: torch.Generator | None) -> Tensor:
        """Step sizes (B,) of one quantizer from numbers about its input, (B, n), and the time steps, () or (B,)."""
        encoded = self.encode(timestep.expand(len(statistics)), self.train_timesteps)
        return self._networks(torch.cat([statistics, encoded], 1)[None], slice(index, index + 1), draws).flatten()

    def _networks(self, h: Tensor, which: slice, draws: torch.Generator | None) -> Tensor:
        last = len(self.weights) - 1
        for i, (weight, bias) in enumerate(zip(self.weights, self.biases, strict=True)):
            h = torch.baddbmm(bias[which], h, weight[which])
            if i < last:
                h = h.relu()
            if i == last - 1 and draws is not None and self.architecture.dropout:
                kept = torch.rand(h.shape, generator=draws) >= self.architecture.dropout
                h = h * (kept.to(h.device) / (1 - self.architecture.dropout))
        return softplus(h)
