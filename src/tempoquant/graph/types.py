"""The structure of a denoiser as plain data: layers, units, attention products."""

from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, NamedTuple

from torch import Tensor, nn


class Category(StrEnum):
    """What a layer's input depends on."""

    IMAGE = "image"
    TEMPORAL = "temporal"
    TEMPORAL_CONDITION = "temporal+condition"
    CONDITION = "condition"
    CONSTANT = "constant"

    @property
    def is_temporal(self) -> bool:
        """Whether the input depends on the time step, and perhaps on conditioning, but not on the sample."""
        return self in (Category.TEMPORAL, Category.TEMPORAL_CONDITION)


@dataclass(frozen=True)
class Probe:
    """A denoiser with example inputs to run it on.

    Attributes:
        module: the network.
        run: ``run(sample, timestep, **conditioning)``, which calls it once.
        sample_shape: shape of one sample.
        timesteps: valid, distinct time steps, at least two; they are passed as int64 if integers, else as float32.
        conditioning: ``conditioning(batch, variant)`` gives keyword arguments; variants 0 and 1 differ.
    """

    module: nn.Module
    run: Callable[..., Tensor]
    sample_shape: tuple[int, ...]
    timesteps: tuple[float, ...]
    conditioning: Callable[[int, int], dict[str, Any]]


@dataclass(frozen=True)
class LayerInfo:
    """One layer of a kind that can be quantized, which executes and multiplies its input.

    Attributes:
        name: of the module.
        kind: name of its :class:`~tempoquant.graph.kinds.StockKind`.
        category: what its input depends on.
        order: position in execution.
        calls: how often one forward calls it.
        shape: of the weight.
        channels: input channels that one output channel sees.
        strided: a convolution that downsamples.
    """

    name: str
    kind: str
    category: Category
    order: int
    calls: int
    shape: tuple[int, ...]
    channels: int
    strided: bool = False


@dataclass(frozen=True)
class Unit:
    """Layers that are reconstructed together: those of one called module, in execution order."""

    name: str
    layers: tuple[str, ...]


@dataclass(frozen=True)
class AttentionProduct:
    """One softmax(q k^T) v.

    Attributes:
        owner: module that executes it, "" for the denoiser itself.
        kind: "sdpa" or "explicit".
        index: which of the owner's products of this kind it is, counted in one call of the owner.
        calls: for "explicit", positions of q k^T and p v among the owner's own matrix products, not its children's.
        flipped: for "explicit", the second product is ``v^T @ p^T``: the softmax is its right operand.
    """

    owner: str
    index: int
    kind: str
    calls: tuple[int, int] = (0, 0)
    flipped: bool = False


class Source(NamedTuple):
    """The module, and the attention product in it, that runs a part of the arithmetic.

    Attributes:
        module: the innermost one that runs.
        product: "sdpa" or "explicit" for a matrix product that :class:`AttentionProduct` may name, "" for all else.
        position: of that product, among those in one call.
    """

    module: str
    product: str = ""
    position: int = 0


@dataclass(frozen=True)
class TimeArgument:
    """Where ``module.forward`` takes the time step."""

    position: int | None
    name: str


@dataclass(frozen=True)
class DenoiserGraph:
    """A denoiser's structure.

    Attributes:
        layers: in execution order.
        unused: layers that never ran.
        unsupported: layers of other kinds with weights, and their class.
        lookups: layers that execute and are given indices (Embedding), by name, with their row length.
        shared: layers of the temporal information block that others follow: h.
        projections: its last layers: every g_i.
        shared_inputs: groups of temporal layers whose inputs are bit-identical.
        units: reconstruction units in execution order.
        splits: channel where a concatenated input's skip part begins.
        attention: products that can be quantized.
        unreached: those that cannot, in words.
    """

    layers: tuple[LayerInfo, ...]
    unused: tuple[str, ...]
    unsupported: dict[str, str]
    shared: tuple[str, ...]
    projections: tuple[str, ...]
    shared_inputs: tuple[tuple[str, ...], ...]
    units: tuple[Unit, ...]
    splits: dict[str, int]
    attention: tuple[AttentionProduct, ...]
    unreached: tuple[str, ...]
    time_argument: TimeArgument
    lookups: dict[str, int]
