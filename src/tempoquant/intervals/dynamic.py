"""Scales computed from the input: one an item of the batch, or one a token (llm-compressor's and torchao's dynamic)."""

from typing import Any

from torch import Tensor

from tempoquant.errors import TempoquantError
from tempoquant.intervals.clock import Clock
from tempoquant.intervals.provider import Form, IntervalProvider, ObservedActivation, ReadTensor, register_provider
from tempoquant.numerics import PerTensor, PerToken, QParams, QuantSpec, affine_qparams, grid


class DynamicForm(Form):
    """An entry: whether zero points stand in the middle of the grid, and whether each token has a scale."""

    symmetric: bool
    per_token: bool


@register_provider("dynamic")
class DynamicInterval(IntervalProvider):
    """The least and greatest value of each item or token, widened to contain zero, decide its scale and zero point.

    Per tensor the scale is that of an item, so that what is drawn does not depend on what else is in the batch.

    Args:
        bits: width.
        symmetric: zero points stand in the middle of the grid: the scale is ``max |x| / (2^(bits-1) - 1)``.
        per_token: one scale a vector along the last axis, not one an item.
    """

    form = DynamicForm
    dynamic = True

    def __init__(self, bits: int, symmetric: bool, per_token: bool):
        super().__init__(bits, *grid(bits))
        self.symmetric = symmetric
        self.granularity = PerToken() if per_token else PerTensor()

    def at(self, row: Tensor | None) -> QParams:
        raise TempoquantError("a dynamic scale is computed once there is an input")

    def forward(self, x: Tensor) -> QParams:
        """Parameters of ``x``, (B, ...): of shape (B, 1, ...), or (..., 1) per token."""
        values = x.detach().float()
        axes = (-1,) if self.granularity == PerToken() else tuple(range(1, x.dim()))
        low, high = values.amin(axes, keepdim=True), values.amax(axes, keepdim=True)
        found = affine_qparams(low, high, self.bits, self.symmetric).unsigned()
        return QParams(found.scale, found.zero_point.float(), self.q_min, self.q_max)

    @classmethod
    def serves(cls, spec: QuantSpec) -> bool:
        return spec.dynamic

    @classmethod
    def from_observed(cls, observed: ObservedActivation) -> "DynamicInterval":
        spec = observed.spec
        return cls(spec.bits, spec.symmetric, spec.granularity == PerToken())

    def to_entry(self) -> dict[str, Any]:
        return super().to_entry() | {"symmetric": self.symmetric, "per_token": self.granularity == PerToken()}

    @classmethod
    def from_entry(cls, form: DynamicForm, read: ReadTensor, clock: Clock) -> "DynamicInterval":
        return cls(form.bits, form.symmetric, form.per_token)
