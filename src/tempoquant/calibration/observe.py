"""Seeing every quantizer's input while the denoiser runs: layers by hooks, attention operands by their watch."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from typing import Any

from torch import Tensor

from tempoquant.layers import OPERANDS, AttentionProducts, QuantizedLayer, numbered_products, operand_name

See = Callable[[str, Tensor], None]


@contextmanager
def observed(
    layers: Mapping[str, QuantizedLayer], attention: Mapping[str, AttentionProducts], see: See
) -> Iterator[None]:
    """Within the block, ``see(site, x)`` is called with the input of every quantizer of every call.

    Sites are layer names, and those of attention operands (see :func:`product_sites`).
    """
    handles = [
        layer.register_forward_pre_hook(_layer_hook(name, see), with_kwargs=True) for name, layer in layers.items()
    ]
    products = list(numbered_products(attention))
    for owner, index, product in products:
        product.watch = partial(_operand, see, owner, index)
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
        for _, _, product in products:
            product.watch = None


def product_sites(attention: Mapping[str, AttentionProducts]) -> list[str]:
    """The sites of all attention operands, four a product."""
    products = numbered_products(attention)
    return [operand_name(owner, index, operand) for owner, index, _ in products for operand in OPERANDS]


def _operand(see: See, owner: str, index: int, name: str, x: Tensor) -> None:
    see(operand_name(owner, index, name), x)


def _layer_hook(name: str, see: See) -> Callable[[Any, tuple, dict], None]:
    def hook(module: Any, args: tuple, kwargs: dict) -> None:
        see(name, args[0] if args else kwargs["input"])

    return hook
