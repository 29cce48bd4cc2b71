"""Layers that replace temporal layers once their features are in a table."""

from collections.abc import Callable, Collection, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from tempoquant.arguments import perturbed
from tempoquant.graph import removing
from tempoquant.layers import places_of
from tempoquant.patching import opaque
from tempoquant.temporal.table import TemporalTable


class CachedLayer(nn.Module):
    """Gives the stored feature of the current time step, whatever its input: (B, ...) -> (B, *feature).

    Args:
        table: the features.
        parameters: how many numbers the replaced layer held.
    """

    def __init__(self, table: TemporalTable, parameters: int):
        super().__init__()
        self.table, self.parameter_count = table, parameters

    @property
    def shape(self) -> tuple[int, ...]:
        """Of one item's feature."""
        return tuple(self.table.values.shape[1:])

    def forward(self, input: Tensor) -> Tensor:
        return opaque(self._feature, input)

    def _feature(self, input: Tensor) -> Tensor:
        return self.table(input.shape[0]).to(input.dtype)


class DeadLayer(nn.Module):
    """Gives zeros, (B, ...) -> (B, *shape): all layers that read the replaced one are cached.

    Args:
        shape: of one item's output.
        parameters: how many numbers the replaced layer held.
    """

    def __init__(self, shape: tuple[int, ...], parameters: int):
        super().__init__()
        self.shape, self.parameter_count = tuple(shape), parameters

    def forward(self, input: Tensor) -> Tensor:
        # Labels are whole numbers, which their embedding is not.
        dtype = input.dtype if input.is_floating_point() else torch.float32
        return input.new_zeros(input.shape[0], *self.shape, dtype=dtype)


Replacement = CachedLayer | DeadLayer


def install_replacements(module: nn.Module, layers: Mapping[str, Replacement]) -> None:
    """Replace the named layers of ``module`` by these, which take over their sizes: some pipelines read them."""
    places = places_of(module)
    for name, replacement in layers.items():
        replaced = module.get_submodule(name)
        sizes = {n: v for n, v in vars(replaced).items() if n in ("in_features", "out_features")}
        vars(replacement).update(sizes)
        for parent, child in places[id(replaced)]:
            setattr(parent, child, replacement)


def replacements(module: nn.Module) -> dict[str, Replacement]:
    """All layers of ``module`` that replace temporal ones, by name in module order."""
    return {name: part for name, part in module.named_modules() if isinstance(part, Replacement)}


def replace_with_tables(module: nn.Module, tables: Mapping[str, TemporalTable]) -> None:
    """Replace the named layers of ``module`` by tables of what they put out."""
    layers = {n: CachedLayer(table, parameter_count(module.get_submodule(n))) for n, table in tables.items()}
    install_replacements(module, layers)


def drop_dead_layers(module: nn.Module, names: Collection[str], run: Callable[[], Any]) -> None:
    """Replace those of the named layers by zeros whose output no longer reaches the denoiser's.

    Args:
        module: the denoiser.
        names: of the layers to try.
        run: one call of the denoiser.
    """
    if not names:
        return
    shapes: dict[str, tuple[int, ...]] = {}

    def measure(name: str) -> Callable[..., None]:
        return lambda layer, args, output: shapes.update({name: tuple(output.shape[1:])})

    with removing([module.get_submodule(name).register_forward_hook(measure(name)) for name in names]), torch.no_grad():
        before = run()
    dead = [name for name in shapes if not _reaches_output(module, name, run, before)]
    counts = {name: parameter_count(module.get_submodule(name)) for name in dead}
    install_replacements(module, {name: DeadLayer(shapes[name], counts[name]) for name in dead})


def parameter_count(layer: nn.Module) -> int:
    """How many numbers a layer holds, or the one held that it replaces."""
    if isinstance(layer, Replacement):
        return layer.parameter_count
    return sum(parameter.numel() for parameter in layer.parameters())


def _reaches_output(module: nn.Module, name: str, run: Callable[[], Any], before: Tensor) -> bool:
    """Whether a change of this layer's output changes the denoiser's, which was ``before``."""
    handle = module.get_submodule(name).register_forward_hook(lambda layer, args, output: perturbed(output))
    with removing([handle]), torch.no_grad():
        return not torch.equal(run(), before)
