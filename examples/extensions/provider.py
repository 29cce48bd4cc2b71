"""A kind of activation scales: one for the earlier, and one for the later half of the recorded time steps.

A recipe asks for it with ``activations.steps: halves``.
"""

from tempoquant.intervals import IntervalProvider, register_provider
from tempoquant.numerics import QParams


@register_provider("halves")
class Halves(IntervalProvider):
    """Scale and zero point by half of the schedule.

    Args:
        scale, zero_point: (2,) of the earlier and the later half.
        bits: width of the unsigned grid.
        clock: whose current row says which half it is.
    """

    def __init__(self, scale, zero_point, bits, clock):
        super().__init__(bits, 0, 2**bits - 1)
        self.register_buffer("scale", scale.float())
        self.register_buffer("zero_point", zero_point.float())
        self.clock = clock

    def at(self, row):
        half = (row >= len(self.clock) // 2).long()
        return QParams(self.scale[half], self.zero_point[half], self.q_min, self.q_max)

    def current(self):
        return self.at(self.clock.row)

    @classmethod
    def from_observed(cls, observed):
        rows = len(observed.clock)
        found = observed.qparams([int(row >= rows // 2) for row in range(rows)], 2)
        return cls(found.scale, found.zero_point, observed.spec.bits, observed.clock)

    def tensors(self):
        return {"halves": self.scale, "zero": self.zero_point}

    @classmethod
    def from_entry(cls, form, read, clock):
        return cls(read("halves", 2), read("zero", 2), form.bits, clock)
