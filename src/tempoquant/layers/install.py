"""Turning a module's stock layers and attention products into quantizable ones, in place."""

from collections.abc import Iterable

from torch import nn

from tempoquant.errors import FormatError
from tempoquant.graph import AttentionProduct
from tempoquant.layers.attention import AttentionProducts
from tempoquant.layers.kinds import to_quantized
from tempoquant.layers.layer import QuantizedLayer


def install_layers(module: nn.Module, names: Iterable[str]) -> dict[str, QuantizedLayer]:
    """Replace the named layers by quantizable ones, which compute as before until weight or input are quantized.

    Args:
        module: changed in place.
        names: of layers of some kind, each once.

    Returns:
        The new layers by name, in the order of ``names``.

    Raises:
        FormatError: a name is not a layer of ``module`` that can be quantized.
    """
    places = places_of(module)
    installed = {}
    for name in names:
        try:
            stock = module.get_submodule(name)
            installed[name] = to_quantized(stock)
        except (AttributeError, TypeError):
            raise FormatError(f"the denoiser has no layer called {name!r} that can be quantized") from None
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
    """Watch the owners of the found attention products; nothing is quantized before they have intervals."""
    by_owner: dict[str, list[AttentionProduct]] = {}
    for product in found:
        by_owner.setdefault(product.owner, []).append(product)
    installed = {owner: AttentionProducts(products) for owner, products in by_owner.items()}
    for owner, products in installed.items():
        products.attach(module.get_submodule(owner))
    return installed
