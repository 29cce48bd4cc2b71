"""What stands where temporal layers stood, once their features are in a table."""

from collections.abc import Callable, Collection, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from tempoquant.intervals import TemporalTable
from tempoquant.layers.install import places_of


class CachedLayer(nn.Module):
    """Puts out the stored feature of the current time step, whatever its input: (B, ...) -> (B, *feature).

    Args:
        table: the features. parameters: how many numbers the layer had that this one stands for.
    """

    def __init__(self, table: TemporalTable, parameters: int):
        super().__init__()
        self.table, self.parameter_count = table, parameters

    @property
    def shape(self) -> tuple[int, ...]:
        """Of one item's feature."""
        return tuple(self.table.values.shape[1:])

    def forward(self, input: Tensor) -> Tensor:
        return self.table(input.shape[0]).to(input.dtype)


class UnreadLayer(nn.Module):
    """Puts out zeros: all that read this layer are cached.

    Args:
        shape: of one item's output. parameters: as of :class:`CachedLayer`.
    """

    def __init__(self, shape: tuple[int, ...], parameters: int):
        super().__init__()
        self.shape, self.parameter_count = tuple(shape), parameters

    def forward(self, input: Tensor) -> Tensor:
        return input.new_zeros(input.shape[0], *self.shape)


StandIn = CachedLayer | UnreadLayer


def install_stand_ins(module: nn.Module, stand_ins: Mapping[str, StandIn]) -> None:
    """Put these in the place of the named layers."""
    places = places_of(module)
    for name, stand_in in stand_ins.items():
        for parent, child in places[id(module.get_submodule(name))]:
            setattr(parent, child, stand_in)


def stand_ins(module: nn.Module) -> dict[str, StandIn]:
    """All of them by name, in module order."""
    return {name: part for name, part in module.named_modules() if isinstance(part, StandIn)}


def look_up(module: nn.Module, tables: Mapping[str, TemporalTable]) -> None:
    """Put tables in the place of these layers."""
    install_stand_ins(module, {n: CachedLayer(t, parameter_count(module.get_submodule(n))) for n, t in tables.items()})


def look_up_or_drop(module: nn.Module, tables: Mapping[str, TemporalTable], run: Callable[[], Any]) -> None:
    """As :func:`look_up`, of layers that the module may no longer read: those that are not put out zeros instead.

    Args:
        run: one call of the denoiser.
    """
    if _reaches_output(module, tables, run):
        look_up(module, tables)
        return
    counts = {name: parameter_count(module.get_submodule(name)) for name in tables}
    install_stand_ins(module, {n: UnreadLayer(tuple(t.values.shape[1:]), counts[n]) for n, t in tables.items()})


def parameter_count(layer: nn.Module) -> int:
    """How many numbers a layer holds."""
    return sum(parameter.numel() for parameter in layer.parameters())


def _reaches_output(module: nn.Module, names: Collection[str], run: Callable[[], Any]) -> bool:
    """Whether NaN in the place of these layers' outputs is seen in the denoiser's: something else reads them."""
    handles = [
        module.get_submodule(name).register_forward_hook(lambda layer, args, output: torch.full_like(output, torch.nan))
        for name in names
    ]
    try:
        with torch.no_grad():
            return bool(run().isnan().any())
    finally:
        for handle in handles:
            handle.remove()
