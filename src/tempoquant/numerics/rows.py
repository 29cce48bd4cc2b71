"""A layer's weight as a matrix: one row of inputs an output channel, whatever the stock layer's own order is."""

from dataclasses import dataclass
from math import prod

from torch import Tensor

from tempoquant.numerics.affine import QParams


@dataclass(frozen=True)
class RowLayout:
    """How a weight of a stock layer's shape is written as rows (C_out, K), and back.

    A row is what one output channel multiplies: its input channels, and within each the kernel's positions.

    Attributes:
        shape: of the stock weight.
        output_axis: 0 for (C_out, C_in / groups, ...), 1 for (C_in, C_out / groups, ...).
        groups: of a convolution's channels.
    """

    shape: tuple[int, ...]
    output_axis: int = 0
    groups: int = 1

    @property
    def output_channels(self) -> int:
        """C_out, how many rows there are."""
        return self.shape[0] if self.output_axis == 0 else self.shape[1] * self.groups

    @property
    def input_channels(self) -> int:
        """Input channels in a row: C_in / groups."""
        return self.shape[1] if self.output_axis == 0 else self.shape[0] // self.groups

    @property
    def row_length(self) -> int:
        """K, how many weights a row has."""
        return prod(self.shape) // self.output_channels

    def to_rows(self, weight: Tensor) -> Tensor:
        """The rows (C_out, K) of a weight, a view where the stock order allows it."""
        if self.output_axis == 0:
            return weight.flatten(1)
        return weight.unflatten(0, (self.groups, -1)).transpose(1, 2).flatten(0, 1).flatten(1)

    def from_rows(self, rows: Tensor) -> Tensor:
        """The weight whose rows (C_out, K) these are."""
        if self.output_axis == 0:
            return rows.reshape(self.shape)
        grouped = rows.reshape(self.groups, self.shape[1], self.input_channels, *self.shape[2:])
        return grouped.transpose(1, 2).reshape(self.shape)

    def over_channels(self, weight: Tensor, start: int, stop: int) -> Tensor:
        """The weight of input channels ``start`` to ``stop`` of every row, in the stock layer's order."""
        if self.output_axis == 0:
            return weight[:, start:stop]
        return weight.unflatten(0, (self.groups, -1))[:, start:stop].flatten(0, 1)

    def grid(self, qparams: QParams) -> QParams:
        """``qparams`` of (C_out, G), its tensors shaped to broadcast against the weight."""
        return qparams.map(self.broadcast)

    def broadcast(self, values: Tensor) -> Tensor:
        """Values of every output channel and group of inputs, (C_out, G), shaped to broadcast against the weight."""
        if values.shape[1] == 1 and (self.output_axis == 0 or self.groups == 1):
            shape = [1] * len(self.shape)
            shape[self.output_axis] = -1
            return values.reshape(shape)
        return self.from_rows(values.repeat_interleave(self.row_length // values.shape[1], 1))
