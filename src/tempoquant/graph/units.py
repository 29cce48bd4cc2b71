"""Which layers to reconstruct together."""

from collections.abc import Collection

from torch import nn

from tempoquant.graph.types import Category, LayerInfo, Unit

MOST_LINEAR = 16
"""A transformer block has at most so many Linear layers; a stack of them has more."""


def reconstruction_units(module: nn.Module, layers: tuple[LayerInfo, ...], called: Collection[str]) -> tuple[Unit, ...]:
    """Partition the image layers into units that are reconstructed together, in execution order.

    Every image layer, and every condition layer inside a unit, is in exactly one.

    Going down from the root, a module is a unit if its forward runs and no called module inside it holds two or more
    image layers (a residual block, an attention, a feed-forward), or if its image layers are at most 16 and all Linear
    (a transformer block). What is reached alone is a unit by itself. The root never is.

    Args:
        module: the denoiser.
        layers: those that execute.
        called: names of the modules whose forward ran.
    """
    finder = _Units(layers, called)
    for child, submodule in module.named_children():
        finder.descend(child, submodule)
    return tuple(sorted(finder.units, key=lambda unit: finder.order[unit.layers[0]]))


class _Units:
    def __init__(self, layers: tuple[LayerInfo, ...], called: Collection[str]):
        self.order = {layer.name: layer.order for layer in layers}
        self.condition = [layer.name for layer in layers if layer.category is Category.CONDITION]
        self.image = {layer.name: layer.kind for layer in layers if layer.category is Category.IMAGE}
        self.called = called
        self.units: list[Unit] = []

    def descend(self, name: str, part: nn.Module) -> None:
        """Add the units of ``part``."""
        image = _inside(name, self.image)
        if name in self.image:
            self.units.append(Unit(name, (name,)))
        elif image and name in self.called and self._is_unit(name, part, image):
            layers = [*image, *_inside(name, self.condition)]
            self.units.append(Unit(name, tuple(sorted(layers, key=self.order.__getitem__))))
        elif image:
            for child, submodule in part.named_children():
                self.descend(f"{name}.{child}", submodule)

    def _is_unit(self, name: str, part: nn.Module, image: list[str]) -> bool:
        if len(image) <= MOST_LINEAR and all(self.image[layer] == "linear" for layer in image):
            return True
        parts = [f"{name}.{child}" for child, _ in part.named_modules() if child]
        return not any(p in self.called and len(_inside(p, image)) >= 2 for p in parts)


def _inside(name: str, layers: Collection[str]) -> list[str]:
    return [layer for layer in layers if layer.startswith(name + ".")]
