"""The temporal table: what a layer that sees the time step alone puts out, stored for every step."""

import torch
from torch import Tensor, nn

from tempoquant.errors import TempoquantError
from tempoquant.intervals import Clock, KeepsPrecision
from tempoquant.numerics import affine_qparams, dequantize, quantize

BITS = 8


class TemporalTable(KeepsPrecision):
    """The temporal features of one layer, a row each (Temporal Feature Matters, TPAMI 2025: cached features).

    Args:
        values: (R, ...) the stored features: float16, or uint8 ``q`` of ``s_r (q - z_r)``.
        clock: the clock whose ``table_rows`` these are.
        scale, zero: (R,) float32 and uint8, for uint8 values alone.
    """

    values: Tensor
    scale: Tensor | None
    zero: Tensor | None

    by_row = True
    """As of a provider: it is of one schedule."""

    def __init__(self, values: Tensor, clock: Clock, scale: Tensor | None = None, zero: Tensor | None = None):
        super().__init__()
        if values.shape[0] != clock.table_rows:
            raise TempoquantError(
                f"features of {values.shape[0]} time steps do not fit a clock of {clock.table_rows} rows"
            )
        self.register_buffer("values", values)
        self.register_buffer("scale", scale)
        self.register_buffer("zero", zero)
        self.clock = clock

    @classmethod
    def of(cls, features: Tensor, storage: str, clock: Clock) -> "TemporalTable":
        """Store features (R, ...), float32.

        Args:
            storage: "float16", rounded to nearest; or "int8": every row on the 8-bit grid of its own extremes, so that
                no value moves by more than half a step.

        Raises:
            TempoquantError: a feature is beyond float16's range.
        """
        if storage == "float16":
            values = features.half()
            if not torch.isfinite(values).all():
                raise TempoquantError(f"a temporal feature of {float(features.abs().max()):g} does not fit float16")
            return cls(values, clock)
        rows = features.flatten(1)
        grid = affine_qparams(rows.amin(1), rows.amax(1), BITS)
        q = quantize(rows, grid.scale[:, None], grid.zero_point[:, None], grid.q_min, grid.q_max)
        return cls(q.to(torch.uint8).view(features.shape), clock, grid.scale, grid.zero_point.to(torch.uint8))

    @property
    def storage(self) -> str:
        """ "float16" or "int8"."""
        return "float16" if self.scale is None else "int8"

    def at(self, rows: Tensor) -> Tensor:
        """Features of the given rows, (B,) int64: (B, ...) float32."""
        values = self.values[rows]
        if self.scale is None or self.zero is None:
            return values.float()
        shape = (-1,) + (1,) * (values.dim() - 1)
        return dequantize(values.float(), self.scale[rows].view(shape), self.zero[rows].float().view(shape))

    def forward(self, batch: int) -> Tensor:
        """Features of the clock's current row for every item of a batch, or of the items' own rows: (B, ...)."""
        row = self.clock.table_row
        if row is None:
            raise TempoquantError("a temporal feature was asked for before the denoiser was called with a time step")
        if row.dim() and row.numel() != batch:
            raise TempoquantError(f"{row.numel()} time steps cannot be spread over {batch} temporal features")
        if row.dim() or torch.compiler.is_compiling():
            return self.at(row.expand(batch))
        one = self._of_row(int(row))
        return one.expand(batch, *one.shape).contiguous()

    def _of_row(self, row: int) -> Tensor:
        """:meth:`at` of one row, by its number, which is faster: a tensor of its own, without the batch."""
        if self.scale is None or self.zero is None:
            return self.values[row].float()
        return dequantize(self.values[row].float(), self.scale[row], self.zero[row].float())


def has_tables(module: nn.Module) -> bool:
    """Whether anything in ``module`` has a row a time step."""
    return any(getattr(part, "by_row", False) for part in module.modules())
