"""What stands where temporal layers stood, once their features are in a table."""

from collections.abc import Mapping

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
