"""One scale a row of the recorded time steps (finite set calibration: TFMQ-DM, CVPR 2024, section 4.3)."""

from torch import Tensor, nn

from tempoquant.errors import TempoquantError
from tempoquant.intervals.clock import Clock
from tempoquant.intervals.constant import OutputScaleForm, StoredScales
from tempoquant.intervals.provider import (
    ObservedActivation,
    ReadTensor,
    ScalarQParams,
    entry_of,
    register_provider,
    stored_qparams,
)
from tempoquant.numerics import PerStep, PerTensor, QParams, QuantSpec


@register_provider("table")
class TableInterval(StoredScales):
    """One scale a row.

    Layers of the same input share one instance: the table is stored once.

    Args:
        qparams: scale and zero point of shape (R,).
        bits: width.
        clock: whose current row selects the entry.
        output_scale: (R,) of quantizers that have output scales of their own.

    Attributes:
        networks: those that generated it, where they are kept.
        number: which of their outputs it is.
    """

    by_row = True
    keeps_networks = True
    networks: nn.Module | None

    def __init__(self, qparams: QParams, bits: int, clock: Clock, output_scale: Tensor | None = None):
        super().__init__(bits, qparams.q_min, qparams.q_max)
        check_rows(qparams.scale, clock)
        self.register_buffer("scale", qparams.scale.float())
        self.register_buffer("zero_point", qparams.zero_point.float())
        self.register_buffer("output_scale", None if output_scale is None else output_scale.float())
        self.register_module("networks", None)
        self.number = 0
        self.clock = clock

    def at(self, row: Tensor | None) -> QParams:
        row = needed_row(row)
        scale = entry_of(self.scale, row)
        out = scale if self.output_scale is None else entry_of(self.output_scale, row)
        return QParams(scale, entry_of(self.zero_point, row), self.q_min, self.q_max, out)

    def current(self) -> QParams:
        return self.at(self.clock.row)

    def scalar_qparams(self) -> ScalarQParams | None:
        row = self.clock.row
        return super().scalar_qparams() if row is None or row.dim() else self._scalars_by_row()[int(row)]

    @classmethod
    def serves(cls, spec: QuantSpec) -> bool:
        return spec.schedule == PerStep() and spec.granularity == PerTensor()

    @classmethod
    def from_observed(cls, observed: ObservedActivation) -> "TableInterval":
        rows = len(observed.clock)
        return cls(observed.qparams(range(rows), rows), observed.spec.bits, observed.clock)

    @classmethod
    def from_entry(cls, form: OutputScaleForm, read: ReadTensor, clock: Clock) -> "TableInterval":
        rows = len(clock)
        out = read("scale_out", rows) if form.scale_out else None
        return cls(stored_qparams(form.bits, read, rows), form.bits, clock, out)


def check_rows(scale: Tensor, clock: Clock) -> None:
    """Raise TempoquantError unless ``scale``, (R, ...), has an entry for every row of ``clock``."""
    if scale.shape[:1] != (len(clock),):
        raise TempoquantError(f"a table of {tuple(scale.shape)} does not fit a clock of {len(clock)} rows")


def needed_row(row: Tensor | None) -> Tensor:
    """``row``; TempoquantError if there is none."""
    if row is None:
        raise TempoquantError("a per-step interval was asked for before the denoiser was called with a time step")
    return row
