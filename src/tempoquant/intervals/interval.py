"""Intervals and what provides them. The contract: row -> (s_in, z, s_out, q_min, q_max)."""

from typing import NamedTuple

import torch
from torch import Tensor, nn

from tempoquant.errors import TempoquantError
from tempoquant.intervals.clock import Clock
from tempoquant.intervals.gradients import fake_quantize
from tempoquant.intervals.precision import KeepsPrecision
from tempoquant.numerics import QParams


class Interval(NamedTuple):
    """A quantizer at one moment: ``x_hat = s_out (clamp(round(x / s_in) + z, q_min, q_max) - z)``.

    Each field is a tensor of shape () when all items of a batch share it, or (B,) when their time steps differ.
    ``zero`` is integer-valued float32: zero is always on the grid. ``s_out`` is ``s_in`` but for quantizers with a
    separate output scale (DuQ, QIL).
    """

    s_in: Tensor
    zero: Tensor
    s_out: Tensor
    q_min: Tensor
    q_max: Tensor

    def over(self, x: Tensor) -> "Interval":
        """The same interval with fields shaped to broadcast over ``x`` (B or k B first, e.g. heads folded in)."""
        if self.s_in.dim() == 0:
            return self
        if x.shape[0] % self.s_in.numel():
            raise TempoquantError(
                f"{self.s_in.numel()} time steps cannot be spread over an input of shape {tuple(x.shape)}"
            )
        repeats, ones = x.shape[0] // self.s_in.numel(), (1,) * (x.dim() - 1)
        wide = Interval(*(f if f.dim() == 0 else f.repeat_interleave(repeats).view(-1, *ones) for f in self))
        # One scale stays one: gradients and their sums depend on it.
        return wide._replace(s_out=wide.s_in) if self.s_out is self.s_in else wide


class ScalarQParams(NamedTuple):
    """An :class:`Interval` of shape () as Python numbers."""

    s_in: float
    zero: float
    q_min: float
    q_max: float
    s_out: float

    @classmethod
    def of(cls, interval: Interval) -> "ScalarQParams":
        """Those of an interval whose fields have shape ()."""
        ends = float(interval.q_min), float(interval.q_max)
        return cls(float(interval.s_in), float(interval.zero), *ends, float(interval.s_out))


class IntervalProvider(KeepsPrecision):
    """Gives the interval of the clock's current row.

    Subclasses implement :meth:`at`, a pure function of the row. ``bits`` is the width that reports show.
    """

    q_min: Tensor
    q_max: Tensor
    _known: "tuple[list[Tensor], list[int], list[ScalarQParams]] | None" = None

    def __init__(self, bits: int, q_min: int, q_max: int):
        super().__init__()
        self.bits = bits
        self.register_buffer("q_min", torch.tensor(float(q_min)), persistent=False)
        self.register_buffer("q_max", torch.tensor(float(q_max)), persistent=False)

    def at(self, row: Tensor | None) -> Interval:
        """The interval of ``row``, int64 of shape () or (B,)."""
        raise NotImplementedError(f"{type(self).__name__} must define at(row)")

    def forward(self) -> Interval:
        return self.at(None)

    def scalar_qparams(self) -> ScalarQParams | None:
        """The current interval in Python numbers; None where time steps differ within the batch."""
        interval = self()
        return ScalarQParams.of(interval) if interval.s_in.dim() == 0 else None

    def _all_numbers(self) -> list[ScalarQParams]:
        """The intervals of all rows, read off their buffers once while these stay as they are."""
        buffers = [buffer for buffer in self._buffers.values() if buffer is not None]
        if any(buffer.is_inference() for buffer in buffers):
            # They do not tell when they change.
            return self._read_numbers()
        versions = [buffer._version for buffer in buffers]
        known = self._known
        if known is None or versions != known[1] or any(a is not b for a, b in zip(buffers, known[0], strict=True)):
            known = self._known = (buffers, versions, self._read_numbers())
        return known[2]

    def _read_numbers(self) -> list[ScalarQParams]:
        rows = torch.arange(self.get_buffer("scale").numel())
        return [ScalarQParams.of(self.at(row)) for row in rows]

    def fake_quantize(self, x: Tensor) -> Tensor:
        """``x`` quantized at the current row, float32 of its shape, with gradients for whatever learns."""
        return fake_quantize(x, self().over(x))


class ConstantInterval(IntervalProvider):
    """One interval for every time step.

    Args:
        scale_out: () the output scale of quantizers that have one of their own.
    """

    scale: Tensor
    zero: Tensor
    scale_out: Tensor | None

    def __init__(self, qparams: QParams, bits: int, scale_out: Tensor | None = None):
        super().__init__(bits, qparams.q_min, qparams.q_max)
        self.register_buffer("scale", qparams.scale.float().reshape(()))
        self.register_buffer("zero", qparams.zero.float().reshape(()))
        self.register_buffer("scale_out", None if scale_out is None else scale_out.float().reshape(()))

    def at(self, row: Tensor | None) -> Interval:
        out = self.scale if self.scale_out is None else self.scale_out
        return Interval(self.scale, self.zero, out, self.q_min, self.q_max)

    def scalar_qparams(self) -> ScalarQParams:
        return self._all_numbers()[0]


class TableInterval(IntervalProvider):
    """One interval a row (finite set calibration: TFMQ-DM, CVPR 2024, section 4.3).

    Layers that see the same input share one instance: the table is stored once.

    Args:
        qparams: scale and zero of shape (R,).
        clock: the clock whose current row selects the entry.
        scale_out: (R,) the output scales of quantizers that have one of their own.

    Attributes:
        networks: what made it, where that is kept, and ``number``, its own among these.
    """

    scale: Tensor
    zero: Tensor
    scale_out: Tensor | None
    networks: nn.Module | None

    def __init__(self, qparams: QParams, bits: int, clock: Clock, scale_out: Tensor | None = None):
        super().__init__(bits, qparams.q_min, qparams.q_max)
        if qparams.scale.shape != (len(clock),):
            raise TempoquantError(f"a table of {tuple(qparams.scale.shape)} does not fit a clock of {len(clock)} rows")
        self.register_buffer("scale", qparams.scale.float())
        self.register_buffer("zero", qparams.zero.float())
        self.register_buffer("scale_out", None if scale_out is None else scale_out.float())
        self.register_module("networks", None)
        self.number = 0
        self.clock = clock

    def at(self, row: Tensor | None) -> Interval:
        if row is None:
            raise TempoquantError("a per-step interval was asked for before the denoiser was called with a time step")
        scale = self.scale[row]
        out = scale if self.scale_out is None else self.scale_out[row]
        return Interval(scale, self.zero[row], out, self.q_min, self.q_max)

    def forward(self) -> Interval:
        return self.at(self.clock.row)

    def scalar_qparams(self) -> ScalarQParams | None:
        row = self.clock.row
        return super().scalar_qparams() if row is None or row.dim() else self._all_numbers()[int(row)]
