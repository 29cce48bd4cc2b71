"""Intervals whose width changes with the time step (PTQD, NeurIPS 2023: step-aware mixed precision)."""

import torch
from torch import Tensor

from tempoquant.errors import FormatError
from tempoquant.intervals.clock import Clock
from tempoquant.intervals.provider import Form, IntervalProvider, ReadTensor, check_grid, entry_of, register_provider
from tempoquant.intervals.table import check_rows, needed_row
from tempoquant.numerics import QParams


@register_provider("stepped")
class SteppedInterval(IntervalProvider):
    """One scale and one width a row; ``bits`` is the largest of the widths.

    Args:
        scale: (R,) at each row's own width.
        zero: (R,) zero points, likewise.
        widths: (R,) bits.
        clock: whose current row selects the entry.
    """

    by_row = True
    scale: Tensor
    zero_point: Tensor
    widths: Tensor

    def __init__(self, scale: Tensor, zero: Tensor, widths: Tensor, clock: Clock):
        super().__init__(int(widths.max()), 0, 2 ** int(widths.max()) - 1)
        for field in (scale, zero, widths):
            check_rows(field, clock)
        self.register_buffer("scale", scale.float())
        self.register_buffer("zero_point", zero.float())
        self.register_buffer("widths", widths.to(torch.uint8))
        self.q_max = 2.0 ** widths.float() - 1
        self.clock = clock

    def at(self, row: Tensor | None) -> QParams:
        row = needed_row(row)
        scale, zero_point, q_max = (entry_of(field, row) for field in (self.scale, self.zero_point, self.q_max))
        return QParams(scale, zero_point, self.q_min, q_max)

    def current(self) -> QParams:
        return self.at(self.clock.row)

    def tensors(self) -> dict[str, Tensor]:
        return {"scale": self.scale, "zero": self.zero_point, "widths": self.widths}

    @classmethod
    def from_entry(cls, form: Form, read: ReadTensor, clock: Clock) -> "SteppedInterval":
        scale, zero, widths = (read(name, len(clock)) for name in ("scale", "zero", "widths"))
        check_grid(zero, 2 ** widths.int() - 1)
        if int(widths.max()) != form.bits:
            raise FormatError(f"the tensor 'tempoquant.interval_widths' has no row of the interval's {form.bits} bits")
        return cls(scale, zero, widths, clock)
