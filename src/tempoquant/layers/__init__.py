"""Quantized Linear, Conv2d and attention products. They call a kernel; simulation is the default one."""

from tempoquant.layers.attention import AttentionProducts, QuantizedProduct, simulate_product
from tempoquant.layers.install import install_attention, install_layers
from tempoquant.layers.layer import QuantConv2d, QuantizedLayer, QuantLinear, to_quantized
from tempoquant.layers.simulation import simulate
from tempoquant.layers.straight_through import straight_through, straight_through_product

__all__ = [
    "AttentionProducts",
    "QuantConv2d",
    "QuantLinear",
    "QuantizedLayer",
    "QuantizedProduct",
    "install_attention",
    "install_layers",
    "simulate",
    "simulate_product",
    "straight_through",
    "straight_through_product",
    "to_quantized",
]
