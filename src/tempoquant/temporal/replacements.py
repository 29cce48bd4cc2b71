"""What stands where temporal layers stood, once their features are in a table."""

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
        return opaque(self._feature, input)

    def _feature(self, input: Tensor) -> Tensor:
        return self.table(input.shape[0]).to(input.dtype)


class DeadLayer(nn.Module):
    """Puts out zeros: all that read this layer are cached.

    Args:
        shape: of one item's output. parameters: as of :class:`CachedLayer`.
    """

    def __init__(self, shape: tuple[int, ...], parameters: int):
        super().__init__()
        self.shape, self.parameter_count = tuple(shape), parameters

    def forward(self, input: Tensor) -> Tensor:
        # Labels are whole numbers, which their embedding is not.
        dtype = input.dtype if input.is_floating_point() else torch.float32
        return input.new_zeros(input.shape[0], *self.shape, dtype=dtype)


StandIn = CachedLayer | DeadLayer


def install_stand_ins(module: nn.Module, stand_ins: Mapping[str, StandIn]) -> None:
    """Put these in the place of the named layers, with their sizes, which some pipelines read."""
    places = places_of(module)
    for name, stand_in in stand_ins.items():
        sizes = {n: v for n, v in vars(module.get_submodule(name)).items() if n in ("in_features", "out_features")}
        vars(stand_in).update(sizes)
        for parent, child in places[id(module.get_submodule(name))]:
            setattr(parent, child, stand_in)


def stand_ins(module: nn.Module) -> dict[str, StandIn]:
    """All of them by name, in module order."""
    return {name: part for name, part in module.named_modules() if isinstance(part, StandIn)}


def replace_with_tables(module: nn.Module, tables: Mapping[str, TemporalTable]) -> None:
    """Put tables in the place of these layers."""
    install_stand_ins(module, {n: CachedLayer(t, parameter_count(module.get_submodule(n))) for n, t in tables.items()})


def drop_dead_layers(module: nn.Module, names: Collection[str], run: Callable[[], Any]) -> None:
    """Let those of the named layers put out zeros that the module no longer reads.

    Args:
        run: one call of the denoiser.
    """
    if not names:
        return
    shapes: dict[str, tuple[int, ...]] = {}

    def measure(name: str) -> Callable[..., None]:
        return lambda layer, args, output: shapes.update({name: tuple(output.shape[1:])})

    with removing([module.get_submodule(name).register_forward_hook(measure(name)) for name in names]), torch.no_grad():
        before = run()
    unread = [name for name in shapes if not _reaches_output(module, name, run, before)]
    counts = {name: parameter_count(module.get_submodule(name)) for name in unread}
    install_stand_ins(module, {name: DeadLayer(shapes[name], counts[name]) for name in unread})


def parameter_count(layer: nn.Module) -> int:
    """How many numbers a layer holds, or the one had that it stands for."""
    if isinstance(layer, StandIn):
        return layer.parameter_count
    return sum(parameter.numel() for parameter in layer.parameters())


def _reaches_output(module: nn.Module, name: str, run: Callable[[], Any], before: Tensor) -> bool:
    """Whether a change of this layer's output is seen in the denoiser's, which was ``before``: something reads it."""
    handle = module.get_submodule(name).register_forward_hook(lambda layer, args, output: perturbed(output))
    with removing([handle]), torch.no_grad():
        return not torch.equal(run(), before)
