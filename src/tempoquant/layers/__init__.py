"""Quantized Linear, Conv2d and attention products. They call a kernel; simulation is the default one."""

from tempoquant.layers.attention import (
    AttentionProducts,
    QuantizedProduct,
    attention_in_pieces,
    quantized_products,
    simulate_product,
)
from tempoquant.layers.cached import (
    CachedLayer,
    StandIn,
    UnreadLayer,
    drop_unread,
    install_stand_ins,
    look_up,
    parameter_count,
    stand_ins,
)
from tempoquant.layers.install import install_attention, install_layers
from tempoquant.layers.layer import QuantConv2d, QuantizedLayer, QuantLinear, quantized_layers, to_quantized
from tempoquant.layers.simulation import simulate
from tempoquant.layers.split import SplitLayer, install_splits
from tempoquant.layers.straight_through import (
    learn_with_gradients,
    learning_kernels,
    straight_through,
    straight_through_product,
)

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
    "attention_in_pieces",
    "drop_unread",
    "install_attention",
    "install_layers",
    "install_splits",
    "install_stand_ins",
    "learn_with_gradients",
    "learning_kernels",
    "look_up",
    "parameter_count",
    "quantized_layers",
    "quantized_products",
    "simulate",
    "simulate_product",
    "stand_ins",
    "straight_through",
    "straight_through_product",
    "to_quantized",
]
