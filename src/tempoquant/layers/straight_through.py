"""Kernels for learning: the simulated computation in float, with straight-through gradients to inputs and scales."""

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from tempoquant.intervals import fake_quantize

if TYPE_CHECKING:
    from tempoquant.layers.attention import QuantizedProduct
    from tempoquant.layers.layer import QuantizedLayer


def straight_through(layer: "QuantizedLayer", x: Tensor) -> Tensor:
    """A layer's output with gradients; equal to simulation's up to the order of float32 sums."""
    if layer.input_interval is not None:
        x = fake_quantize(x, layer.input_interval().over(x)).to(x.dtype)
    return layer.product(x, layer.dequantized_weight().to(x.dtype), layer.bias)


def straight_through_product(product: "QuantizedProduct", names: str, left: Tensor, right: Tensor) -> Tensor:
    """``left @ right`` with both operands quantized, with gradients."""
    x, y = (fake_quantize(x, product.intervals[name]().over(x)) for name, x in zip(names, (left, right), strict=True))
    return torch.matmul(x, y).to(left.dtype)
