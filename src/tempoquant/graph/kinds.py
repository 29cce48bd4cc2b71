"""Which classes of layers can be quantized: the one table that reading a denoiser asks."""

from dataclasses import dataclass
from typing import Literal

from torch import nn

from tempoquant.errors import InputError


@dataclass(frozen=True)
class StockKind:
    """A class of layers with one weight, as reading a denoiser needs to know it.

    Attributes:
        name: of the kind, as in :attr:`LayerInfo.kind`.
        stock: the class. A subclass is of this kind while it computes by the same ``forward``.
        spatial: dimensions of the input after its channels: 0 for a Linear, 2 for a Conv2d.
        output_axis: the weight's axis of output channels: 0, or 1 for (C_in, C_out / groups, ...) as a transposed
            convolution has it.
        looks_up: the input is indices, as an Embedding's: the weight alone can be quantized, and is if a recipe's
            policy names the layer.
        transformable: ``stock(C_in, C_out, bias=..., device=..., **geometry)`` builds one, so that transforms can
            replace a layer of one group by others of its class.
    """

    name: str
    stock: type[nn.Module]
    spatial: int = 0
    output_axis: Literal[0, 1] = 0
    looks_up: bool = False
    transformable: bool = False

    @property
    def channel_axis(self) -> int:
        """The axis of the input's channels, counted from the end."""
        return -1 - self.spatial

    def input_channels(self, layer: nn.Module) -> int:
        """How many input channels of ``layer`` one output channel sees: C_in, or C_in / groups."""
        shape = layer.get_parameter("weight").shape
        return shape[1] if self.output_axis == 0 else shape[0] // getattr(layer, "groups", 1)


KINDS: dict[type[nn.Module], StockKind] = {}
"""By class; :func:`tempoquant.layers.layer_kind` adds those of a user's own."""


def add_kind(kind: StockKind) -> None:
    """Register a layer kind under its class; a file that is imported twice registers its class twice.

    Raises:
        InputError: another kind has its class or its name.
    """
    for other in KINDS.values():
        if other != kind and (other.stock is kind.stock or (other.name == kind.name and not _again(other, kind))):
            what = f"layer kind {kind.name!r} of {kind.stock.__name__}"
            raise InputError(f"{what}: kind {other.name!r} has that class or name")
    KINDS[kind.stock] = kind


def _again(a: StockKind, b: StockKind) -> bool:
    """Whether two classes are the same one of a file that was imported twice."""
    return (a.stock.__module__, a.stock.__qualname__) == (b.stock.__module__, b.stock.__qualname__)


for _kind in (
    StockKind("linear", nn.Linear, transformable=True),
    StockKind("conv1d", nn.Conv1d, 1, transformable=True),
    StockKind("conv2d", nn.Conv2d, 2, transformable=True),
    StockKind("conv3d", nn.Conv3d, 3, transformable=True),
    StockKind("conv-transpose1d", nn.ConvTranspose1d, 1, output_axis=1),
    StockKind("conv-transpose2d", nn.ConvTranspose2d, 2, output_axis=1),
    StockKind("embedding", nn.Embedding, looks_up=True),
):
    add_kind(_kind)


def kind_of(layer: nn.Module) -> StockKind | None:
    """The entry of :data:`KINDS` for a layer's class, or the nearest base class that has one; None without one."""
    return next((KINDS[cls] for cls in type(layer).__mro__ if cls in KINDS), None)


def stock_kind_of(layer: nn.Module) -> StockKind | None:
    """:func:`kind_of` a layer that computes as its kind's class does; None for all others.

    Those have a ``forward`` of their own, a weight that is computed from others, or (Embedding with ``max_norm``) one
    that a call changes.
    """
    kind = kind_of(layer)
    if kind is None or type(layer).forward is not kind.stock.forward or "forward" in vars(layer):
        return None
    return kind if "weight" in layer._parameters and getattr(layer, "max_norm", None) is None else None


def is_strided(layer: nn.Module) -> bool:
    """Whether a layer is a convolution that downsamples."""
    return max(getattr(layer, "stride", (1,))) > 1 and not getattr(layer, "transposed", False)
