"""Quantized Linear, Conv2d and attention products. They call a kernel; simulation is the default one."""

from tempoquant.layers.attention import AttentionProducts, QuantizedProduct
from tempoquant.layers.cached import CachedLayer, StandIn, UnreadLayer, install_stand_ins, stand_ins
from tempoquant.layers.install import install_attention, install_layers
from tempoquant.layers.layer import QuantConv2d, QuantizedLayer, QuantLinear, to_quantized
from tempoquant.layers.simulation import simulate
from tempoquant.layers.split import SplitLayer, install_splits

__all__ = [
    "AttentionProducts",
    "CachedLayer",
    "QuantConv2d",
    "QuantLinear",
    "QuantizedLayer",
    "QuantizedProduct",
    "SplitLayer",
    "StandIn",
    "UnreadLayer",
    "install_attention",
    "install_layers",
    "install_splits",
    "install_stand_ins",
    "simulate",
    "stand_ins",
    "to_quantized",
]
