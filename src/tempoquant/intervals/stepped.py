"""Intervals whose width changes with the time step (PTQD, NeurIPS 2023: step-aware mixed precision)."""

import torch
from torch import Tensor

from tempoquant.errors import TempoquantError
from tempoquant.intervals.clock import Clock
from tempoquant.intervals.interval import IntervalProvider
from tempoquant.numerics import QParams


class SteppedInterval(IntervalProvider):
    """One interval and one width a row; ``bits`` is the largest of the widths.

    Args:
        scale, zero: (R,) at each row's own width. widths: (R,) bits.
        clock: the clock whose current row selects the entry.
    """

    scale: Tensor
    zero_point: Tensor
    widths: Tensor

    def __init__(self, scale: Tensor, zero: Tensor, widths: Tensor, clock: Clock):
        super().__init__(int(widths.max()), 0, 2 ** int(widths.max()) - 1)
        if not scale.shape == zero.shape == widths.shape == (len(clock),):
            raise TempoquantError(f"a table of {tuple(scale.shape)} does not fit a clock of {len(clock)} rows")
        self.register_buffer("scale", scale.float())
        self.register_buffer("zero_point", zero.float())
        self.register_buffer("widths", widths.to(torch.uint8))
        self.q_max = 2.0 ** widths.float() - 1
        self.clock = clock

    def at(self, row: Tensor | None) -> QParams:
        if row is None:
            raise TempoquantError("a per-step interval was asked for before the denoiser was called with a time step")
        scale = self.scale[row]
        return QParams(scale, self.zero_point[row], self.q_min, self.q_max[row])

    def forward(self) -> QParams:
        return self.at(self.clock.row)
