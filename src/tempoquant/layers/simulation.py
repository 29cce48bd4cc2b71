"""Simulation: the integer computation of a quantized layer, carried out exactly on integer-valued floats.

A layer's meaning is ``(acc * s_x) * s_w + b`` in float32, where ``acc`` is the exact integer sum. A float32 sum of
integers is exact while every partial sum stays below 2^24, so input channels are split into as few parts as keep that
bound, and the parts are added in float64.
"""

from itertools import pairwise
from typing import TYPE_CHECKING

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
        return layer.product(x, layer.dequantized_weight().to(x.dtype), layer.bias)
    interval = layer.input_interval(x)
    centred = quantized_input(x, interval)
    if layer.weight_scale is None:
        on_grid = (centred * interval.output_scale).to(layer.weight.dtype)
        return layer.product(on_grid, layer.weight, layer.bias).to(x.dtype)
    acc = exact_product(layer, centred, float((interval.q_max - interval.q_min).max()))
    shape = (-1,) + (1,) * (layer.weight.dim() - 2)
    out = (acc * interval.output_scale) * layer.weight_scale.view(shape)
    return (out if layer.bias is None else out + layer.bias.view(shape)).to(x.dtype)


def quantized_input(x: Tensor, interval: QParams) -> Tensor:
    """``q - z``: integer-valued float32 of x's shape; ``interval`` is already shaped to broadcast."""
    q = quantize(x.float(), interval.scale, interval.zero_point, interval.q_min, interval.q_max)
    return q.sub_(interval.zero_point)


def exact_product(layer: "QuantizedLayer", centred: Tensor, span: float) -> Tensor:
    """The integer sums of a layer, exact, rounded once to float32.

    Args:
        centred: ``q_x - z_x``, integer-valued, at most ``span`` in magnitude.
    """
    weight = layer.weight
    if span not in layer.exact_parts:
        layer.exact_parts[span] = _parts_of(layer, span)
    bounds = layer.exact_parts[span]
    if bounds is None:
        return layer.product(centred.double(), weight.double()).float()
    if len(bounds) == 2:
        return layer.product(centred, weight.float())
    axis = 1 if weight.dim() == 4 else -1
    parts = (
        layer.product(centred.narrow(axis, start, stop - start), weight[:, start:stop].float())
        for start, stop in pairwise(bounds)
    )
    total = next(parts).double()
    for part in parts:
        total += part
    return total.float()


def _parts_of(layer: "QuantizedLayer", span: float) -> list[int] | None:
    weight = layer.weight
    bounds = channel_parts(span * weight.double().abs().view(*weight.shape[:2], -1).sum(2))
    return None if bounds and len(bounds) > 2 and getattr(layer, "groups", 1) != 1 else bounds


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
