"""Kernels for learning: the simulated computation in float, with straight-through gradients to inputs and scales."""

from typing import Any

import torch
from torch import Tensor, nn

from tempoquant.layers.attention import QuantizedProduct, simulate_product
from tempoquant.layers.layer import QuantizedLayer
from tempoquant.layers.simulation import simulate
from tempoquant.numerics import PerTensor


def straight_through(layer: QuantizedLayer, x: Tensor) -> Tensor:
    """A layer's output with gradients; equal to simulation's up to the order of float32 sums."""
    if layer.input_interval is not None:
        x = layer.input_interval.fake_quantize(x).to(x.dtype)
    return layer.product(x, layer.dequantized_weight().to(layer.output_dtype(x)), layer.bias)


def straight_through_product(product: QuantizedProduct, names: str, left: Tensor, right: Tensor) -> Tensor:
    """``left @ right`` with both operands quantized, with gradients."""
    providers: Any = product.intervals
    first, second = (providers[name] for name in names)
    y = second.fake_quantize(right) if second.granularity == PerTensor() else _by_columns(second, right)
    return torch.matmul(first.fake_quantize(left), y).to(left.dtype)


def _by_columns(provider: Any, right: Tensor) -> Tensor:
    """The right operand of a product, whose tokens are its columns, quantized."""
    return provider.fake_quantize(right.transpose(-2, -1)).transpose(-2, -1)


def learn_with_gradients(module: nn.Module, learn: bool = True) -> None:
    """Let everything quantized inside ``module`` compute with straight-through gradients, or be simulated again."""
    for part in module.modules():
        if isinstance(part, QuantizedLayer):
            part.kernel = straight_through if learn else simulate
        elif isinstance(part, QuantizedProduct):
            part.compute_with(straight_through_product if learn else simulate_product)
