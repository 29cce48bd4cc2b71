"""Providers of activation quantization parameters. The contract: row -> QParams."""

from typing import NamedTuple

import torch
from torch import Tensor, nn

from tempoquant.errors import TempoquantError
from tempoquant.intervals.clock import Clock
from tempoquant.intervals.gradients import fake_quantize
from tempoquant.intervals.precision import KeepsPrecision
from tempoquant.numerics import QParams


class ScalarQParams(NamedTuple):
    """A :class:`~tempoquant.numerics.QParams` of shape () as Python numbers."""

    scale: float
    zero_point: float
    q_min: float
    q_max: float
    output_scale: float

    @classmethod
    def of(cls, interval: QParams) -> "ScalarQParams":
        """Those of an interval whose fields have shape ()."""
        ends = float(interval.q_min), float(interval.q_max)
        return cls(float(interval.scale), float(interval.zero_point), *ends, float(interval.output_scale))


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

    def at(self, row: Tensor | None) -> QParams:
        """The interval of ``row``, int64 of shape () or (B,)."""
        raise NotImplementedError(f"{type(self).__name__} must define at(row)")

    def forward(self) -> QParams:
        return self.at(None)

    def scalar_qparams(self) -> ScalarQParams | None:
        """The current interval in Python numbers; None where time steps differ within the batch."""
        interval = self()
        return ScalarQParams.of(interval) if interval.scale.dim() == 0 else None

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
        output_scale: () the output scale of quantizers that have one of their own.
    """

    scale: Tensor
    zero_point: Tensor
    output_scale: Tensor | None

    def __init__(self, qparams: QParams, bits: int, output_scale: Tensor | None = None):
        super().__init__(bits, qparams.q_min, qparams.q_max)
        self.register_buffer("scale", qparams.scale.float().reshape(()))
        self.register_buffer("zero_point", qparams.zero_point.float().reshape(()))
        self.register_buffer("output_scale", None if output_scale is None else output_scale.float().reshape(()))

    def at(self, row: Tensor | None) -> QParams:
        out = self.scale if self.output_scale is None else self.output_scale
        return QParams(self.scale, self.zero_point, self.q_min, self.q_max, out)

    def scalar_qparams(self) -> ScalarQParams:
        return self._all_numbers()[0]


class TableInterval(IntervalProvider):
    """One interval a row (finite set calibration: TFMQ-DM, CVPR 2024, section 4.3).

    Layers that see the same input share one instance: the table is stored once.

    Args:
        qparams: scale and zero of shape (R,).
        clock: the clock whose current row selects the entry.
        output_scale: (R,) the output scales of quantizers that have one of their own.

    Attributes:
        networks: what made it, where that is kept, and ``number``, its own among these.
    """

    scale: Tensor
    zero_point: Tensor
    output_scale: Tensor | None
    networks: nn.Module | None

    def __init__(self, qparams: QParams, bits: int, clock: Clock, output_scale: Tensor | None = None):
        super().__init__(bits, qparams.q_min, qparams.q_max)
        if qparams.scale.shape != (len(clock),):
            raise TempoquantError(f"a table of {tuple(qparams.scale.shape)} does not fit a clock of {len(clock)} rows")
        self.register_buffer("scale", qparams.scale.float())
        self.register_buffer("zero_point", qparams.zero_point.float())
        self.register_buffer("output_scale", None if output_scale is None else output_scale.float())
        self.register_module("networks", None)
        self.number = 0
        self.clock = clock

    def at(self, row: Tensor | None) -> QParams:
        if row is None:
            raise TempoquantError("a per-step interval was asked for before the denoiser was called with a time step")
        scale = self.scale[row]
        out = scale if self.output_scale is None else self.output_scale[row]
        return QParams(scale, self.zero_point[row], self.q_min, self.q_max, out)

    def forward(self) -> QParams:
        return self.at(self.clock.row)

    def scalar_qparams(self) -> ScalarQParams | None:
        row = self.clock.row
        return super().scalar_qparams() if row is None or row.dim() else self._all_numbers()[int(row)]
