"""Simulation: the integer computation of a quantized layer, carried out exactly on integer-valued floats.

A layer's meaning is ``(acc * s_x) * s_w + b`` in float32, where ``acc`` is the exact integer sum; with groups of inputs
it is ``sum over g of (acc_g * s_x) * s_w[:, g]``, added up in the order of the groups, then the bias. A float32 sum of
integers is exact while every partial sum stays below 2^24, so input channels are split into as few parts as keep that
bound, and the parts are added in float64.
"""

import functools
from collections.abc import Iterable, Iterator
from itertools import pairwise
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor

from tempoquant.numerics import QParams, quantize

if TYPE_CHECKING:
    from tempoquant.layers.layer import QuantizedLayer

EXACT = 2.0**24
MOST_PARTS = 16
"""Above so many parts one float64 product is faster than the float32 parts."""


@torch.compiler.disable
def simulate(layer: "QuantizedLayer", x: Tensor) -> Tensor:
    """The output of a layer, in the input's dtype; that of the stock layer while nothing is quantized.

    With a quantized input this is exact integer arithmetic up to the final float32 scaling. With a float input (W4A32)
    it is the float product with the dequantized weight, with a float weight the product with the dequantized input.
    """
    if layer.input_interval is None:
        return layer.product(x, layer.dequantized_weight().to(layer.output_dtype(x)), layer.bias)
    interval = layer.input_interval(x)
    centred = quantized_input(x, interval)
    if layer.weight_scale is None:
        on_grid = (centred * interval.output_scale).to(layer.weight.dtype)
        return layer.product(on_grid, layer.weight, layer.bias).to(x.dtype)
    out = sum_of_groups(layer, exact_sums(layer, centred, layer.input_interval.span), interval.output_scale)
    return (out if layer.bias is None else out + layer.over_output(layer.bias)).to(x.dtype)


def sum_of_groups(layer: "QuantizedLayer", sums: Iterable[Tensor], scale: Tensor) -> Tensor:
    """``sum over g of (acc_g * s_x) * s_w[:, g]`` in float32, in the order of the groups.

    Args:
        layer: its weight scales are (C_out, G).
        sums: G exact sums, each of the output's shape.
        scale: s_x, which broadcasts against the output.
    """
    assert layer.weight_scale is not None
    scales = layer.weight_scale.unbind(1)
    parts = ((acc * scale) * layer.over_output(s_w) for acc, s_w in zip(sums, scales, strict=True))
    return functools.reduce(torch.add, parts)


def quantized_input(x: Tensor, interval: QParams) -> Tensor:
    """``q - z``: integer-valued float32 of x's shape; ``interval`` is already shaped to broadcast."""
    q = quantize(x.float(), interval.scale, interval.zero_point, interval.q_min, interval.q_max)
    return q.sub_(interval.zero_point)


class Run(NamedTuple):
    """Input channels that are summed together.

    Attributes:
        bounds: ends of the parts whose float32 sums are exact, in ascending order.
        in_float64: there are too many of these, so that one sum in float64 is faster.
    """

    bounds: list[int]
    in_float64: bool


def exact_sums(layer: "QuantizedLayer", centred: Tensor, span: float) -> Iterator[Tensor]:
    """The integer sums of a layer over each group of inputs, exact, rounded once to float32.

    Args:
        layer: with an integer weight.
        centred: ``q_x - z_x``, integer-valued, at most ``span`` in magnitude.
        span: of the input's grid.
    """
    if span not in layer.exact_parts:
        layer.exact_parts[span] = _runs_of(layer, span)
    return (_sum_over(layer, centred, run) for run in layer.exact_parts[span])


def _sum_over(layer: "QuantizedLayer", centred: Tensor, run: Run) -> Tensor:
    dtype = torch.float64 if run.in_float64 else torch.float32
    # Floats first: within inference mode, a packed weight has no views.
    weight, layout = layer.weight.to(dtype), layer.layout
    parts = (
        layer.product(layer.over_channels(centred, *ends).to(dtype), layout.over_channels(weight, *ends))
        for ends in pairwise(run.bounds)
    )
    total = next(parts)
    if len(run.bounds) > 2:
        total = total.double()
        for part in parts:
            total += part
    return total.float()


def _runs_of(layer: "QuantizedLayer", span: float) -> list[Run]:
    """For each group of inputs of the layer's weight, the channels that it sums."""
    layout, groups = layer.layout, layer.weight_groups
    rows = layout.to_rows(layer.weight.double().abs())
    reach = span * rows.view(len(rows), layout.input_channels, -1).sum(2)
    width, runs = layout.input_channels // groups, []
    for start in range(0, layout.input_channels, width):
        bounds = channel_parts(reach[:, start : start + width])
        ends = [0, width] if bounds is None else bounds
        runs.append(Run([start + end for end in ends], bounds is None))
    return runs


def channel_parts(reach: Tensor) -> list[int] | None:
    """Ends of the fewest runs of input channels whose sums stay exact in float32, or None if float64 is better.

    Args:
        reach: (C_out, C_in) the largest magnitude that an input channel adds to an output channel.
    """
    parts = int((reach.sum(1).max() / EXACT).ceil().clamp(min=1))
    while parts <= min(MOST_PARTS, reach.shape[1]):
        bounds = [round(reach.shape[1] * i / parts) for i in range(parts + 1)]
        if all(float(reach[:, a:b].sum(1).max()) < EXACT for a, b in pairwise(bounds)):
            return bounds
        parts += 1
    return None
