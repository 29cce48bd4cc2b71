"""Backends: what computes quantized layers and attention products. One file each, registered by name.

A backend of one's own is a class in a file, loaded as every plugin is and chosen by its name::

    @backend("mine")
    class Mine(Backend):
        label = "mine int8"

        def supports(self, layer):
            return None if layer.weight_scale is not None else Unsupported(Reason.FLOAT_WEIGHT)

        def layer_kernel(self):
            return lambda layer, x: ...
"""

import enum
from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar, NamedTuple

from tempoquant.errors import InputError
from tempoquant.extension import guarded
from tempoquant.kernels.names import ALIASES, BACKENDS
from tempoquant.layers import (
    AttentionKernel,
    CenteredInput,
    LayerKernel,
    ProductKernel,
    QuantizedLayer,
    attention_in_pieces,
    quantized_input,
    simulate_product,
)


class Reason(enum.Enum):
    """Why a layer is simulated: words with a place for a detail."""

    CHOSEN = "chosen"
    FLOAT_WEIGHT = "float weight"
    FLOAT_INPUT = "float input"
    INPUT_BITS = "{}-bit input"
    DYNAMIC_INPUT = "dynamic input"
    PER_TOKEN_INPUT = "per-token input"
    GROUPED_WEIGHT = "grouped weight"
    NO_OPERATOR = "no operator for {}"
    WEIGHT_RANGE = "weight differences beyond int8"
    SUM_RANGE = "sums beyond int32"
    DEVICE = "on {}"
    PADDING_MODE = "{} padding"
    UNEVEN_PADDING = "uneven padding"
    OTHER = "{}"


@dataclass(frozen=True)
class Unsupported:
    """What a backend does not run.

    Attributes:
        reason: why.
        detail: what the reason's words have a place for, e.g. a number of bits.
    """

    reason: Reason
    detail: str | int = ""

    def __str__(self) -> str:
        return self.reason.value.format(self.detail)


class Fusion(enum.Enum):
    """Modules of a denoiser that a backend computes together with the layer that reads them.

    GROUP_NORM: GroupNorm, SiLU and rounding; its layer kernel is called with a
    :class:`~tempoquant.kernels.norm_fusion.DeferredGroupNorm`.
    """

    GROUP_NORM = enum.auto()


class ProductKernels(NamedTuple):
    """How attention products are computed; by default simulated. See :class:`~tempoquant.layers.QuantizedProduct`.

    Attributes:
        kernel: a product of two quantized operands.
        attention: softmax(q k^T * scale) v, where nothing is masked.
        centred: ``q - z`` of an operand, float32, for simulated products.
    """

    kernel: ProductKernel = simulate_product
    attention: AttentionKernel = attention_in_pieces
    centred: CenteredInput = quantized_input


class Backend:
    """Computes quantized layers, with the bits of simulation or within a tolerance of its own.

    Attributes:
        label: what reports say of a layer that it runs.
        fusions: what its layer kernel computes together with its layer.
    """

    label: ClassVar[str]
    fusions: ClassVar[frozenset[Fusion]] = frozenset()

    def available(self) -> bool:
        """Whether it is right on this machine: a check of its results, made once a process."""
        return True

    def supports(self, layer: QuantizedLayer) -> Unsupported | None:
        """None if it can run a layer, else why not; asked again whenever the layer is reported."""
        raise NotImplementedError(f"{type(self).__name__} must define supports")

    def layer_kernel(self) -> LayerKernel:
        """What computes one layer that it supports: a new kernel, if it keeps anything of the layer."""
        raise NotImplementedError(f"{type(self).__name__} must define layer_kernel")

    def product_kernels(self) -> ProductKernels:
        """What computes attention products."""
        return ProductKernels()


def backend(name: str) -> Callable[[type[Backend]], type[Backend]]:
    """Decorator: register a backend's class under ``name``.

    Raises:
        InputError: another backend has that name.
    """

    def register(cls: type[Backend]) -> type[Backend]:
        if name in ALIASES:
            raise InputError(f"engine {name!r} exists already: choose another name")
        BACKENDS.add(name, cls())
        return cls

    return register


def unsupported(name: str, layer: QuantizedLayer) -> Unsupported | None:
    """Why the backend called ``name`` cannot run a layer; None if it can."""
    return guarded(f"engine {name!r}", BACKENDS[name].supports, layer)
