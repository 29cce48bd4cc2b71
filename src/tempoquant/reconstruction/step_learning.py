"""The step sizes of one unit: learned by gradients, kept if the unit as it will run is no worse for it."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from tempoquant.intervals import Clock, IntervalProvider, TableInterval
from tempoquant.layers import Site, learning_kernels
from tempoquant.learned import SCHEMES, Architecture, Bank, Draws, KeptNetworks, LearnedInterval, fold_intervals
from tempoquant.numerics import SMALLEST_SCALE, QParams
from tempoquant.randomness import rng
from tempoquant.reconstruction.effort import StepEffort
from tempoquant.reconstruction.lockstep import take_rows
from tempoquant.reconstruction.rounding import reconstruction_loss
from tempoquant.reconstruction.unit import first_tensor, hard_loss

NORM = 2.4
STEP_SIZES = "lsq"
"""The scheme whose quantizers have a step size."""


@dataclass(frozen=True)
class Call:
    """N rows of a unit: arguments, full-precision output, and the time steps () or (N,)."""

    args: tuple
    kwargs: dict[str, Any]
    target: Tensor
    timestep: Tensor

    @property
    def rows(self) -> int:
        return self.target.shape[0]

    def part(self, rows: Tensor) -> "Call":
        """Some of the rows."""
        timestep = self.timestep.expand(self.rows)[rows]
        args, kwargs = take_rows((self.args, self.kwargs), rows, self.rows)
        return Call(args, kwargs, self.target[rows], timestep)


@dataclass(frozen=True)
class StepLearner:
    """Learns step sizes of one unit.

    Attributes:
        module: the unit.
        call: rows of it.
        clock: of the denoiser.
        effort: settings.
        key: names the random draws.
        keep: let tables keep the networks that give their step sizes.
    """

    module: nn.Module
    call: Call
    clock: Clock
    effort: StepEffort
    key: tuple
    keep: bool = False

    def learn(self, sites: list[Site], architecture: Architecture | None, train_timesteps: int) -> None:
        """Learn the step sizes of ``sites`` in place; they stay as they were if the unit's hard loss would rise.

        Args:
            sites: of the unit.
            architecture: of the networks that give step sizes and fold into tables; None: the providers' own learn.
            train_timesteps: T, the length of the training schedule.
        """
        before = [site.provider for site in sites]
        scales = [provider.scale.clone() for provider in before]
        loss = self.loss()
        bank = None if architecture is None else self._bank(sites, architecture, train_timesteps)
        with torch.enable_grad(), learning_kernels(self.module):
            self._optimize([provider.scale for provider in before], bank)
        if bank is not None:
            fold_intervals(sites, bank, self.clock, self.keep)
        # So written, a loss that is not a number is no gain either.
        if not self.loss() <= loss:
            for site, provider, scale in zip(sites, before, scales, strict=True):
                provider.scale.copy_(scale)
                site.provider = provider

    def loss(self) -> float:
        """The unit's loss over all rows, as it will run."""
        timestep = self.call.timestep.expand(self.call.rows)
        call = self.call.args, self.call.kwargs
        return hard_loss(self.module, call, self.call.target, NORM, lambda rows: self.clock.at(timestep[rows]))

    def _bank(self, sites: list[Site], architecture: Architecture, train_timesteps: int) -> Bank:
        """Networks that give the step sizes of ``sites`` from now on, beside fixed zero points."""
        start = [site.provider for site in sites]
        bank = Bank(start, SCHEMES[STEP_SIZES], architecture, train_timesteps, Draws(), (*self.key, "start"))
        bank.fix_zero_points()
        for index, (site, provider) in enumerate(zip(sites, start, strict=True)):
            site.provider = LearnedInterval(provider, bank, index, self.clock)
        return bank

    def _optimize(self, scales: list[Tensor], bank: Bank | None) -> None:
        effort, draws = self.effort, rng(*self.key)
        optimizer = torch.optim.Adam(self._parameters(scales, bank))
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, max(1, effort.iterations))
        for _ in range(effort.iterations):
            part = self.call.part(torch.randint(self.call.rows, (min(effort.batch, self.call.rows),), generator=draws))
            with self.clock.at(part.timestep):
                if bank is not None and self.clock.timestep is not None:
                    bank.draws.now = draws
                    bank.set(self.clock.timestep)
                output = first_tensor(self.module.forward(*part.args, **part.kwargs))
            optimizer.zero_grad()
            reconstruction_loss(output, part.target, NORM).backward()
            optimizer.step()
            schedule.step()
            for scale in scales:
                scale.data.clamp_(min=SMALLEST_SCALE)
        for scale in scales:
            scale.requires_grad_(False)
        if bank is not None:
            bank.draws.now = None

    def _parameters(self, scales: list[Tensor], bank: Bank | None) -> list[dict[str, Any]]:
        if bank is not None and bank.generators is not None:
            return [{"params": [*bank.generators.parameters()], "lr": self.effort.generator_lr}]
        share = [float(scale.mean()) if self.effort.relative else 1.0 for scale in scales]
        return [{"params": [s.requires_grad_()], "lr": self.effort.lr * w} for s, w in zip(scales, share, strict=True)]


def kept_in(sites: list[Site]) -> KeptNetworks | None:
    """The networks that made the tables of ``sites``, if they keep them."""
    return getattr(sites[0].provider, "networks", None)


def with_scale(provider: IntervalProvider, scale: Tensor, clock: Clock) -> IntervalProvider:
    """``provider`` with another scale: itself in place, or a table for a scale (R,) where it had one, ()."""
    had: Any = provider
    if scale.shape == had.scale.shape:
        had.scale.copy_(scale)
        return provider
    qparams = QParams(scale, had.zero_point.expand_as(scale).clone(), int(provider.q_min), int(provider.q_max))
    return TableInterval(qparams, provider.bits, clock)
