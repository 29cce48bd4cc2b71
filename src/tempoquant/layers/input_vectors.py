"""A layer's input as the vectors that its weight multiplies: what the closed-form reconstruction needs of it."""

from dataclasses import dataclass
from math import prod
from typing import Any

import torch
from torch import Tensor, nn


def linear_vectors(x: Tensor, most: int, rng: torch.Generator) -> Tensor:
    """At most ``most`` rows of (..., C_in), drawn without replacement: (M, C_in)."""
    rows = x.reshape(-1, x.shape[-1])
    return rows if rows.shape[0] <= most else rows[torch.randperm(rows.shape[0], generator=rng)[:most]]


def conv_vectors(layer: Any, x: Tensor, most: int, rng: torch.Generator) -> Tensor:
    """At most ``most`` patches under an output position of a convolution, its padding included: (M, C_in * kernel).

    Args:
        layer: Conv1d, Conv2d or Conv3d of one group.
        x: (B, C_in, ...).
        most: patches; more are drawn from, without replacement.
        rng: draws the positions; the same state draws the same ones for any input of the same shape.
    """
    mode = "constant" if layer.padding_mode == "zeros" else layer.padding_mode
    padded = nn.functional.pad(x, layer._reversed_padding_repeated_twice, mode)
    taps = (range(0, d * k, d) for d, k in zip(layer.dilation, layer.kernel_size, strict=True))
    return _gather(padded, _Windows(tuple(taps), layer.stride), most, rng)


def transposed_conv_vectors(layer: Any, x: Tensor, most: int, rng: torch.Generator) -> Tensor:
    """The same for a transposed convolution of one group.

    It is a convolution of the input with zeros between its positions, by the kernel in the reverse order.
    """
    spaced = x
    for axis, stride in enumerate(layer.stride, 2):
        spaced = _spaced(spaced, axis, stride)
    reach = [d * (k - 1) for d, k in zip(layer.dilation, layer.kernel_size, strict=True)]
    ends = zip(reach, layer.padding, layer.output_padding, strict=True)
    pads = [end for r, p, more in reversed([*ends]) for end in (r - p, r - p + more)]
    taps = (range(r, -1, -d) for r, d in zip(reach, layer.dilation, strict=True))
    return _gather(nn.functional.pad(spaced, pads), _Windows(tuple(taps), (1,) * len(reach)), most, rng)


@dataclass(frozen=True)
class _Windows:
    """Where patches lie: by dimension, the offsets that a patch takes and the distance between patches."""

    taps: tuple[range, ...]
    strides: tuple[int, ...]

    def places(self, sides: tuple[int, ...]) -> list[int]:
        """How many patches fit each side."""
        spans = [max(taps) for taps in self.taps]
        return [(side - span - 1) // s + 1 for side, span, s in zip(sides, spans, self.strides, strict=True)]


def _gather(padded: Tensor, windows: _Windows, most: int, rng: torch.Generator) -> Tensor:
    """Patches of (B, C, ...), (M, C * taps)."""
    # Channels last: a patch is then a few contiguous runs of memory.
    images, *sides, channels = padded.movedim(1, -1).shape
    grid = (images, *windows.places(tuple(sides)))
    count = prod(grid)
    chosen = torch.arange(count) if count <= most else torch.randperm(count, generator=rng)[:most]
    corner, *places = torch.unravel_index(chosen, grid)
    under = torch.zeros(1, dtype=torch.long)
    for side, place, taps, stride in zip(sides, places, windows.taps, windows.strides, strict=True):
        corner = corner * side + place * stride
        under = (under[:, None] * side + torch.tensor([*taps])).flatten()
    pixels = padded.movedim(1, -1).reshape(-1, channels)[(corner[:, None] + under).flatten()]
    return pixels.view(len(chosen), len(under), channels).transpose(1, 2).flatten(1)


def _spaced(x: Tensor, axis: int, stride: int) -> Tensor:
    """``x`` with ``stride - 1`` zeros between its positions along ``axis``."""
    if stride == 1:
        return x
    shape = list(x.shape)
    shape[axis] = (shape[axis] - 1) * stride + 1
    out = x.new_zeros(shape)
    out[(slice(None),) * axis + (slice(None, None, stride),)] = x
    return out
