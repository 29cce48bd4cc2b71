"""Turning a module's stock layers and attention products into quantizable ones, in place."""

from collections.abc import Iterable

from torch import nn

from tempoquant.errors import FormatError
from tempoquant.graph import AttentionProduct
from tempoquant.layers.attention import AttentionProducts
from tempoquant.layers.layer import QuantConv2d, QuantLinear, to_quantized


def install_layers(module: nn.Module, names: Iterable[str]) -> dict[str, QuantLinear | QuantConv2d]:
    """Replace the named Linear and Conv2d layers by quantizable ones; they compute as before until told otherwise.

    Returns:
        The new layers by name, in the given order.

    Raises:
        FormatError: a name is not a Linear or Conv2d of ``module``.
    """
    places = places_of(module)
    installed = {}
    for name in names:
        try:
            stock = module.get_submodule(name)
            installed[name] = to_quantized(stock)
        except (AttributeError, TypeError):
            raise FormatError(f"the denoiser has no Linear or Conv2d called {name!r}") from None
        for parent, child in places[id(stock)]:
            setattr(parent, child, installed[name])
    return installed


def places_of(module: nn.Module) -> dict[int, list[tuple[nn.Module, str]]]:
    """Where every part of ``module`` is registered, by its id: in several places maybe, which must run the same one."""
    places: dict[int, list[tuple[nn.Module, str]]] = {}
    for parent in module.modules():
        for child, part in parent._modules.items():
            places.setdefault(id(part), []).append((parent, child))
    return places


def install_attention(module: nn.Module, found: Iterable[AttentionProduct]) -> dict[str, AttentionProducts]:
    """Watch the owners of the found attention products; nothing is quantized until intervals are given."""
    by_owner: dict[str, list[AttentionProduct]] = {}
    for product in found:
        by_owner.setdefault(product.owner, []).append(product)
    installed = {owner: AttentionProducts(products) for owner, products in by_owner.items()}
    for owner, products in installed.items():
        products.attach(module.get_submodule(owner))
    return installed
