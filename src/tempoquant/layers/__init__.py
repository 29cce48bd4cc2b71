"""Quantized layers and attention products. They call a kernel; simulation is the default one."""

from tempoquant.layers.attention import (
    OPERANDS,
    AttentionKernel,
    AttentionProducts,
    CenteredInput,
    ProductKernel,
    QuantizedProduct,
    attention_in_pieces,
    operand_qparams,
    quantized_products,
    simulate_product,
)
from tempoquant.layers.install import install_attention, install_layers, places_of
from tempoquant.layers.kinds import (
    LAYER_KINDS,
    QuantConv1d,
    QuantConv2d,
    QuantConv3d,
    QuantConvTranspose1d,
    QuantConvTranspose2d,
    QuantEmbedding,
    QuantLinear,
    layer_kind,
    stock_product,
    to_quantized,
)
from tempoquant.layers.layer import LayerKernel, QuantizedLayer, quantized_layers
from tempoquant.layers.simulation import quantized_input, simulate
from tempoquant.layers.sites import Site, layer_sites, numbered_products, operand_name, operand_sites
from tempoquant.layers.straight_through import (
    learn_with_gradients,
    straight_through,
    straight_through_product,
)
from tempoquant.layers.temporary import learning_kernels, temporary_kernels

__all__ = [
    "LAYER_KINDS",
    "OPERANDS",
    "AttentionKernel",
    "AttentionProducts",
    "CenteredInput",
    "LayerKernel",
    "ProductKernel",
    "QuantConv1d",
    "QuantConv2d",
    "QuantConv3d",
    "QuantConvTranspose1d",
    "QuantConvTranspose2d",
    "QuantEmbedding",
    "QuantLinear",
    "QuantizedLayer",
    "QuantizedProduct",
    "Site",
    "attention_in_pieces",
    "install_attention",
    "install_layers",
    "layer_kind",
    "layer_sites",
    "learn_with_gradients",
    "learning_kernels",
    "numbered_products",
    "operand_name",
    "operand_qparams",
    "operand_sites",
    "places_of",
    "quantized_input",
    "quantized_layers",
    "quantized_products",
    "simulate",
    "simulate_product",
    "stock_product",
    "straight_through",
    "straight_through_product",
    "temporary_kernels",
    "to_quantized",
]
