"""Layer kinds: for each stock class that can be quantized, the subclass that stands in its place.

A kind of one's own is one such class, in a file of its own::

    @layer_kind(StockKind("gained", GainedLinear))
    class QuantGainedLinear(QuantLinear, GainedLinear):
        def product(self, x, weight, bias=None):
            return nn.functional.linear(x, weight * self.gain, bias)
"""

import copy
from collections.abc import Callable
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.nn import functional

from tempoquant.errors import InputError
from tempoquant.graph import KINDS, StockKind, add_kind, kind_of
from tempoquant.layers.input_vectors import conv_vectors, linear_vectors, transposed_conv_vectors
from tempoquant.layers.layer import QuantizedLayer
from tempoquant.patching import opaque

LAYER_KINDS: dict[StockKind, type[QuantizedLayer]] = {}
"""The quantized class of every kind; :func:`layer_kind` fills it."""
TRANSPOSED: dict[int, Callable[..., Tensor]] = {1: functional.conv_transpose1d, 2: functional.conv_transpose2d}
"""By dimensions after the channels."""
Class = TypeVar("Class", bound=type[QuantizedLayer])


def layer_kind(kind: StockKind) -> Callable[[Class], Class]:
    """Decorator: let a subclass of :class:`QuantizedLayer` and ``kind.stock`` quantize the layers of ``kind``.

    Raises:
        InputError: another kind has its class or its name, or the decorated class does not derive from ``kind.stock``.
    """

    def register(cls: Class) -> Class:
        if not issubclass(cls, kind.stock):
            raise InputError(f"layer kind {kind.name!r}: {cls.__name__} must derive from {kind.stock.__name__}")
        add_kind(kind)
        cls.kind = kind
        LAYER_KINDS[kind] = cls
        return cls

    return register


def to_quantized(layer: nn.Module) -> QuantizedLayer:
    """A quantized layer with the same parameters (shared, not copied), hooks and mode as ``layer``.

    Raises:
        TypeError: the layer is of no kind.
    """
    kind = kind_of(layer)
    if kind is None:
        names = ", ".join(k.stock.__name__ for k in LAYER_KINDS)
        raise TypeError(f"a {type(layer).__name__} cannot be quantized: {names} can")
    quantized_class = LAYER_KINDS[kind]
    quantized = quantized_class.__new__(quantized_class)
    quantized.__dict__.update(layer.__dict__)
    quantized.start_float()
    return quantized


def stock_product(layer: nn.Module, x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """The linear map of a stock or quantized layer, with another weight of its shape."""
    kind = kind_of(layer)
    assert kind is not None
    product: Callable[..., Tensor] = LAYER_KINDS[kind].product
    return product(layer, x, weight, bias)


@layer_kind(KINDS[nn.Linear])
class QuantLinear(QuantizedLayer, nn.Linear):
    """A Linear with integer weight and quantized input, (..., C_in) -> (..., C_out)."""

    def product(self, x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
        return functional.linear(x, weight, bias)

    def input_vectors(self, x: Tensor, most: int, rng: torch.Generator) -> Tensor:
        return linear_vectors(x, most, rng)


class _QuantConv(QuantizedLayer):
    """Convolutions. Zero padding is exact: zero is on every grid."""

    def product(self, x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
        layer: Any = self
        return layer._conv_forward(x, weight, bias)

    def input_vectors(self, x: Tensor, most: int, rng: torch.Generator) -> Tensor:
        return conv_vectors(self, x, most, rng)


@layer_kind(KINDS[nn.Conv1d])
class QuantConv1d(_QuantConv, nn.Conv1d):
    """A Conv1d with integer weight and quantized input, (B, C_in, L) -> (B, C_out, L')."""


@layer_kind(KINDS[nn.Conv2d])
class QuantConv2d(_QuantConv, nn.Conv2d):
    """A Conv2d with integer weight and quantized input, (B, C_in, H, W) -> (B, C_out, H', W')."""


@layer_kind(KINDS[nn.Conv3d])
class QuantConv3d(_QuantConv, nn.Conv3d):
    """A Conv3d with integer weight and quantized input, (B, C_in, D, H, W) -> (B, C_out, D', H', W')."""


class _QuantConvTranspose(QuantizedLayer):
    """Transposed convolutions: the weight is (C_in, C_out / groups, ...)."""

    def forward(self, input: Tensor, output_size: list[int] | None = None) -> Tensor:
        """The layer's output.

        Args:
            input: (B, C_in, ...).
            output_size: of all dimensions after the channels, where the stride leaves several open.
        """
        layer: Any = self
        if output_size is not None:
            # The size is a padding of the output, which a kernel reads off its layer.
            layer = copy.copy(layer)
            shape = layer.stride, layer.padding, layer.kernel_size, layer.kind.spatial, layer.dilation
            layer.output_padding = tuple(layer._output_padding(input, output_size, *shape))
        return opaque(self.kernel, layer, input)

    def product(self, x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
        layer: Any = self
        function = TRANSPOSED[weight.dim() - 2]
        return function(
            x, weight, bias, layer.stride, layer.padding, layer.output_padding, layer.groups, layer.dilation
        )

    def input_vectors(self, x: Tensor, most: int, rng: torch.Generator) -> Tensor:
        return transposed_conv_vectors(self, x, most, rng)


@layer_kind(KINDS[nn.ConvTranspose1d])
class QuantConvTranspose1d(_QuantConvTranspose, nn.ConvTranspose1d):
    """A ConvTranspose1d with integer weight and quantized input, (B, C_in, L) -> (B, C_out, L')."""


@layer_kind(KINDS[nn.ConvTranspose2d])
class QuantConvTranspose2d(_QuantConvTranspose, nn.ConvTranspose2d):
    """A ConvTranspose2d with integer weight and quantized input, (B, C_in, H, W) -> (B, C_out, H', W')."""


@layer_kind(KINDS[nn.Embedding])
class QuantEmbedding(QuantizedLayer, nn.Embedding):
    """An Embedding with integer weight, a scale for every row of its table: (...) indices -> (..., C).

    Attributes:
        like: empty, of the dtype that the outputs have, which no input tells; cast as the module is.
    """

    bias = None

    def start_float(self) -> None:
        super().start_float()
        self.like = torch.empty(0, dtype=self.weight.dtype)

    def _apply(self, fn: Callable[..., Any], recurse: bool = True) -> Any:
        self.like = fn(self.like)
        return super()._apply(fn, recurse)

    def output_dtype(self, x: Tensor) -> torch.dtype:
        return self.like.dtype

    def product(self, x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
        return functional.embedding(x, weight, self.padding_idx)
