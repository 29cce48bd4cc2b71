"""One scale for every time step."""

from typing import Any

from torch import Tensor

from tempoquant.intervals.clock import Clock
from tempoquant.intervals.provider import (
    Form,
    IntervalProvider,
    ObservedActivation,
    ReadTensor,
    ScalarQParams,
    register_provider,
    stored_qparams,
)
from tempoquant.numerics import Constant, Generated, PerTensor, QParams, QuantSpec


class OutputScaleForm(Form):
    """An entry; ``scale_out``: whether there are output scales beside the scales."""

    scale_out: bool = False


class StoredScales(IntervalProvider):
    """A provider that stores scales and zero points, and output scales of the same shape where a quantizer has these.

    Attributes:
        scale: float32.
        zero_point: integer-valued float32.
        output_scale: float32, of quantizers with output scales of their own (DuQ, QIL).
    """

    form = OutputScaleForm
    scale: Tensor
    zero_point: Tensor
    output_scale: Tensor | None

    def to_entry(self) -> dict[str, Any]:
        return super().to_entry() | ({} if self.output_scale is None else {"scale_out": True})

    def tensors(self) -> dict[str, Tensor]:
        out = {} if self.output_scale is None else {"scale_out": self.output_scale}
        return {"scale": self.scale, "zero": self.zero_point, **out}


@register_provider("constant")
class ConstantInterval(StoredScales):
    """One scale for every time step.

    Args:
        qparams: scale and zero point of one value.
        bits: width.
        output_scale: () of quantizers that have one of their own.
    """

    def __init__(self, qparams: QParams, bits: int, output_scale: Tensor | None = None):
        super().__init__(bits, qparams.q_min, qparams.q_max)
        self.register_buffer("scale", qparams.scale.float().reshape(()))
        self.register_buffer("zero_point", qparams.zero_point.float().reshape(()))
        self.register_buffer("output_scale", None if output_scale is None else output_scale.float().reshape(()))

    def at(self, row: Tensor | None) -> QParams:
        out = self.scale if self.output_scale is None else self.output_scale
        return QParams(self.scale, self.zero_point, self.q_min, self.q_max, out)

    def scalar_qparams(self) -> ScalarQParams:
        return self._scalars_by_row()[0]

    @classmethod
    def serves(cls, spec: QuantSpec) -> bool:
        # What a network starts from is one scale too.
        fixed = isinstance(spec.schedule, Constant | Generated)
        return fixed and spec.granularity == PerTensor() and not spec.dynamic

    @classmethod
    def from_observed(cls, observed: ObservedActivation) -> "ConstantInterval":
        return cls(observed.qparams([0] * len(observed.clock), 1), observed.spec.bits)

    @classmethod
    def from_entry(cls, form: OutputScaleForm, read: ReadTensor, clock: Clock) -> "ConstantInterval":
        return cls(stored_qparams(form.bits, read, 1), form.bits, read("scale_out", 1) if form.scale_out else None)
