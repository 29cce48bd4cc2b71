"""Intervals from the input itself: TDQ's comparison (So et al., NeurIPS 2023, first ablation).

They cannot fold into tables: what they cost at run time is what the comparison is about.
"""

import torch
from torch import Tensor

from tempoquant.errors import TempoquantError
from tempoquant.intervals import Clock, ConstantInterval, IntervalProvider
from tempoquant.learned.bank import Bank, LearnedInterval
from tempoquant.numerics import SMALLEST_SCALE, QParams

STATISTICS = 4


class RangeInterval(IntervalProvider):
    """The smallest step that clips nothing of an item, at the calibrated zero point."""

    dynamic = True
    zero_point: Tensor

    def __init__(self, start: ConstantInterval):
        super().__init__(start.bits, int(start.q_min), int(start.q_max))
        self.register_buffer("zero_point", start.zero_point.clone())

    def at(self, row: Tensor | None) -> QParams:
        raise TempoquantError("an interval from the input's range is known once there is an input")

    def forward(self, x: Tensor) -> QParams:
        """The interval of every item of an input, (B, ...)."""
        rows = x.detach().float().flatten(1)
        above = rows.amax(1).clamp(min=0) / (self.q_max - self.zero_point).clamp(min=1)
        below = -rows.amin(1).clamp(max=0) / (self.zero_point - self.q_min).clamp(min=1)
        scale = torch.maximum(above, below).clamp(min=SMALLEST_SCALE)
        return QParams(scale, self.zero_point, self.q_min, self.q_max).over(x)


class StatisticsInterval(LearnedInterval):
    """The interval that a network of a :class:`Bank` makes of the input's minimum, maximum, mean and variance.

    Whether it also sees the time step is its architecture's encoding.
    """

    dynamic = True

    def __init__(self, start: ConstantInterval, bank: Bank, index: int, clock: Clock):
        super().__init__(start, bank, index, clock)
        if bank.generators is None or bank.generators.architecture.statistics != STATISTICS:
            raise TempoquantError("the bank has no networks of the input's statistics")

    def current(self) -> QParams:
        raise TempoquantError("an interval from the input's statistics is known once there is an input")

    def forward(self, x: Tensor) -> QParams:
        bank, timestep = self.bank, self.clock.timestep
        assert bank.generators is not None and timestep is not None
        seen = statistics(x)
        timestep = timestep if timestep.dim() == 0 else timestep.repeat_interleave(len(seen) // len(timestep))
        which = range(self.index, bank.count * len(bank.scheme.fields), bank.count)
        values = tuple(bank.generators.of_input(i, seen, timestep.to(x.device), bank.draws.now) for i in which)
        return bank.interval(self.index, values, self.q_min, self.q_max).over(x)


def statistics(x: Tensor) -> Tensor:
    """Minimum, maximum, mean and variance of every item of (B, ...): (B, 4), without gradients."""
    rows = x.detach().float().flatten(1)
    return torch.stack([rows.amin(1), rows.amax(1), rows.mean(1), rows.var(1, correction=0)], 1)
