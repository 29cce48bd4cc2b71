"""Which layers to reconstruct together."""

from torch import nn

from tempoquant.graph.types import Category, LayerInfo, Unit

MOST_LINEAR = 16
"""A transformer block has at most so many Linear layers; a stack of them has more."""


def reconstruction_units(module: nn.Module, layers: tuple[LayerInfo, ...]) -> tuple[Unit, ...]:
    """Units in execution order; every image layer, and every condition layer inside one, is in exactly one.

    Going down from the root, a module is a unit if no called module inside it holds two or more of its layers (a
    residual block, an attention, a feed-forward), or if it has only Linear layers, at most 16 (a transformer block).
    What is reached alone is a unit by itself.
    """
    order = {layer.name: layer.order for layer in layers}
    members = {la.name for la in layers if la.category in (Category.IMAGE, Category.CONDITION)}
    image = {la.name for la in layers if la.category is Category.IMAGE}
    kinds = {la.name: la.kind for la in layers}
    units: list[Unit] = []

    def inside(name: str) -> list[str]:
        return [m for m in members if m == name or m.startswith(name + ".")]

    def descend(name: str, part: nn.Module) -> None:
        found = inside(name)
        if not any(m in image for m in found):
            return
        if name in members or (callable_module(part) and _is_unit(name, part, found, kinds, members)):
            units.append(Unit(name, tuple(sorted(found, key=order.__getitem__))))
            return
        for child, submodule in part.named_children():
            descend(f"{name}.{child}", submodule)

    for child, submodule in module.named_children():
        descend(child, submodule)
    return tuple(sorted(units, key=lambda unit: order[unit.layers[0]]))


def callable_module(module: nn.Module) -> bool:
    """Whether a module has a forward of its own, unlike a ModuleList or ModuleDict."""
    return not isinstance(module, nn.ModuleList | nn.ModuleDict)


def _is_unit(name: str, part: nn.Module, found: list[str], kinds: dict[str, str], members: set[str]) -> bool:
    if all(kinds[m] == "linear" for m in found) and len(found) <= MOST_LINEAR:
        return True
    for child, submodule in part.named_modules():
        if child and callable_module(submodule) and f"{name}.{child}" not in members:
            held = [m for m in found if m.startswith(f"{name}.{child}.")]
            if len(held) >= 2:
                return False
    return True
