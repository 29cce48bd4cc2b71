"""Stored scales of tokens: one a position, by time step or not."""

from typing import Annotated, Any

from pydantic import Field
from torch import Tensor

from tempoquant.errors import InputError, TempoquantError
from tempoquant.intervals.clock import Clock
from tempoquant.intervals.provider import (
    Form,
    IntervalProvider,
    ObservedActivation,
    ReadTensor,
    register_provider,
    stored_qparams,
)
from tempoquant.intervals.table import check_rows, needed_row
from tempoquant.numerics import PerStep, PerToken, QParams, QuantSpec


def token_count(x: Tensor) -> int:
    """Tokens of each item of (B, ..., P, C): P; one of (B, C)."""
    return x.shape[-2] if x.dim() > 2 else 1


class TokenForm(Form):
    """An entry: how many tokens there are, and whether their scales change with the time step."""

    tokens: Annotated[int, Field(ge=1, le=2**24)]
    by_step: bool = False


@register_provider("tokens")
class TokenInterval(IntervalProvider):
    """One scale a token's position, which needs inputs of a fixed number of tokens; one for every row, if by step.

    Args:
        qparams: scale and zero point of shape (P,), or (R, P) by step.
        bits: width.
        clock: whose current row selects the entry; None: the same scales at every time step.
    """

    form = TokenForm
    granularity = PerToken()
    scale: Tensor
    zero_point: Tensor

    def __init__(self, qparams: QParams, bits: int, clock: Clock | None = None):
        super().__init__(bits, qparams.q_min, qparams.q_max)
        if clock is not None:
            check_rows(qparams.scale, clock)
        self.register_buffer("scale", qparams.scale.float())
        self.register_buffer("zero_point", qparams.zero_point.float())
        self.clock, self.by_row = clock, clock is not None

    @property
    def tokens(self) -> int:
        """P."""
        return self.scale.shape[-1]

    def at(self, row: Tensor | None) -> QParams:
        if self.clock is None:
            return QParams(self.scale, self.zero_point, self.q_min, self.q_max)
        row = needed_row(row)
        return QParams(self.scale[row], self.zero_point[row], self.q_min, self.q_max)

    def current(self) -> QParams:
        return self.at(None if self.clock is None else self.clock.row)

    def forward(self, x: Tensor) -> QParams:
        """Parameters of ``x``, (B, ..., P, C) or (k B, ..., P, C): of shape (P, 1), or (k B, ..., P, 1) by item.

        Raises:
            InputError: ``x`` has another number of tokens.
            TempoquantError: ``x`` has no multiple of B items.
        """
        if token_count(x) != self.tokens:
            raise InputError(
                f"an input of {token_count(x)} tokens has no stored scales, which are of {self.tokens}: "
                "use dynamic ones where the number changes"
            )
        return self.current().map(lambda field: field if field.dim() == 0 else _shaped(field, x))

    def scalar_qparams(self) -> None:
        """None: there is more than one scale."""

    @classmethod
    def serves(cls, spec: QuantSpec) -> bool:
        return spec.granularity == PerToken() and not spec.dynamic

    @classmethod
    def from_observed(cls, observed: ObservedActivation) -> "TokenInterval":
        rows, bits = len(observed.clock), observed.spec.bits
        if observed.spec.schedule == PerStep():
            return cls(observed.qparams(range(rows), rows), bits, observed.clock)
        return cls(observed.qparams([0] * rows, 1).map(lambda field: field[0]), bits)

    def to_entry(self) -> dict[str, Any]:
        return super().to_entry() | {"tokens": self.tokens} | ({"by_step": True} if self.by_row else {})

    def tensors(self) -> dict[str, Tensor]:
        return {"scale": self.scale, "zero": self.zero_point}

    @classmethod
    def from_entry(cls, form: TokenForm, read: ReadTensor, clock: Clock) -> "TokenInterval":
        shape = (len(clock), form.tokens) if form.by_step else (form.tokens,)
        count = form.tokens * (len(clock) if form.by_step else 1)
        qparams = stored_qparams(form.bits, read, count).map(lambda field: field.view(shape))
        return cls(qparams, form.bits, clock if form.by_step else None)


def _shaped(field: Tensor, x: Tensor) -> Tensor:
    """(P,) or (B, P), shaped to broadcast against ``x``."""
    if field.dim() == 1:
        return field.view(-1, 1)
    items = field.shape[0]
    if x.shape[0] % items:
        raise TempoquantError(f"{items} time steps cannot be spread over an input of shape {tuple(x.shape)}")
    ones = (1,) * (x.dim() - 3)
    each = field.repeat_interleave(x.shape[0] // items, 0)
    return each.view(x.shape[0], *ones, -1, 1) if x.dim() > 2 else each
