"""Quantized activations by name: layers' inputs by the layers' names, attention operands as ``owner:index:operand``."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from torch import nn

from tempoquant.layers.attention import AttentionProducts, QuantizedProduct
from tempoquant.layers.layer import QuantizedLayer


@dataclass
class Site:
    """One quantized activation: where the provider of its quantization parameters is.

    Attributes:
        name: of the layer, or of the operand, see :func:`operand_name`.
        holder: the module that has the provider.
        attribute: the name under which it has it.
    """

    name: str
    holder: nn.Module
    attribute: str

    @property
    def provider(self) -> Any:
        """The provider; setting it replaces it."""
        return getattr(self.holder, self.attribute)

    @provider.setter
    def provider(self, provider: nn.Module) -> None:
        setattr(self.holder, self.attribute, provider)


def operand_name(owner: str, index: int, operand: str) -> str:
    """What an operand of an attention product is called.

    Args:
        owner: the module that executes the product.
        index: of the product among the owner's.
        operand: "q", "k", "v" or "p".
    """
    return f"{owner}:{index}:{operand}"


def numbered_products(attention: Mapping[str, AttentionProducts]) -> Iterator[tuple[str, int, QuantizedProduct]]:
    """All attention products: owner, index among the owner's, product."""
    for owner, products in attention.items():
        for index, product in enumerate(products.products):
            assert isinstance(product, QuantizedProduct)
            yield owner, index, product


def layer_sites(layers: Mapping[str, QuantizedLayer]) -> list[Site]:
    """The inputs of these layers that are quantized."""
    return [Site(name, layer, "input_interval") for name, layer in layers.items() if layer.input_interval is not None]


def operand_sites(attention: Mapping[str, AttentionProducts]) -> list[Site]:
    """The quantized operands of these products."""
    return [
        Site(operand_name(owner, index, operand), product.intervals, operand)
        for owner, index, product in numbered_products(attention)
        for operand in product.intervals
    ]
