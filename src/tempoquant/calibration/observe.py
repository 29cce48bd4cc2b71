"""Observes every quantizer's input while the denoiser runs: layers by hooks, attention operands by their watch."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from typing import Any

from torch import Tensor

from tempoquant.layers import AttentionProducts, QuantizedLayer, numbered_products, operand_name

Observe = Callable[[str, Tensor], None]


@contextmanager
def observed(
    layers: Mapping[str, QuantizedLayer], attention: Mapping[str, AttentionProducts], observe: Observe
) -> Iterator[None]:
    """Within the block, ``observe(site, x)`` is called with the input of every quantizer of every call.

    Sites are layer names, and those of attention operands (:func:`~tempoquant.layers.operand_name`).
    """
    handles = [
        layer.register_forward_pre_hook(_layer_hook(name, observe), with_kwargs=True) for name, layer in layers.items()
    ]
    products = list(numbered_products(attention))
    for owner, index, product in products:
        product.watch = partial(_operand, observe, owner, index)
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
        for _, _, product in products:
            product.watch = None


def _operand(observe: Observe, owner: str, index: int, name: str, x: Tensor) -> None:
    observe(operand_name(owner, index, name), x)


def _layer_hook(name: str, observe: Observe) -> Callable[[Any, tuple, dict], None]:
    def hook(module: Any, args: tuple, kwargs: dict) -> None:
        observe(name, args[0] if args else kwargs["input"])

    return hook
