"""Kernels in the place of others for a while."""

from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager

from torch import nn

from tempoquant.layers.attention import ProductKernel, QuantizedProduct, attention_in_pieces
from tempoquant.layers.layer import LayerKernel, QuantizedLayer
from tempoquant.layers.straight_through import straight_through, straight_through_product
from tempoquant.patching import substitute


@contextmanager
def temporary_kernels(
    layers: Mapping[QuantizedLayer, LayerKernel],
    products: Iterable[QuantizedProduct] = (),
    product_kernel: ProductKernel = straight_through_product,
) -> Iterator[None]:
    """Let layers and attention products compute with other kernels in a ``with`` block; then with those of before.

    Args:
        layers: the kernel of each layer.
        products: they all get ``product_kernel``.
        product_kernel: computes a product of two quantized operands.
    """
    with ExitStack() as stack:
        for layer, kernel in layers.items():
            stack.callback(substitute(layer, kernel, "kernel"))
        for product in products:
            stack.callback(substitute(product, product_kernel, "kernel"))
            # The attention that calls the kernel: others have products of their own.
            stack.callback(substitute(product, attention_in_pieces, "attention"))
        yield


@contextmanager
def learning_kernels(module: nn.Module) -> Iterator[None]:
    """Let everything quantized inside ``module`` compute with straight-through gradients in a ``with`` block."""
    layers = {part: straight_through for part in module.modules() if isinstance(part, QuantizedLayer)}
    with temporary_kernels(layers, [part for part in module.modules() if isinstance(part, QuantizedProduct)]):
        yield
