"""Linear and Conv2d whose weight is integers and whose input is quantized by an interval."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from tempoquant.intervals import IntervalProvider, KeepsPrecision
from tempoquant.layers.simulation import simulate
from tempoquant.numerics import QParams
from tempoquant.patching import opaque

LayerKernel = Callable[["QuantizedLayer", Tensor], Tensor]
"""Computes a layer's output, in the input's dtype, from the layer and its input."""


class QuantizedLayer(KeepsPrecision):
    """What QuantLinear and QuantConv2d share.

    A layer made with the stock constructor computes as its stock parent does. :meth:`set_weight` makes its weight
    integers; assigning ``input_interval`` quantizes its input. The two are independent: W4A32 has only the first.

    Attributes:
        weight: float, or the integers ``q - z`` (int8 where they fit, else int16), shape of the stock layer.
        weight_scale: (C_out,) float32, or None while the weight is float.
        weight_zero: (C_out,) the unsigned zero points (needed to pack, not to compute), or None.
        weight_bits: width of the weight, 32 while it is float.
        input_interval: provides the input's interval, or None.
        exact_parts: for an input span, the runs of input channels whose sums simulation keeps exact (filled by it).
        kernel: computes the layer; :func:`~tempoquant.layers.simulation.simulate` unless a run-time gives another.
    """

    weight: Tensor
    bias: Any
    weight_scale: Tensor | None
    weight_zero: Tensor | None
    weight_bits: int = 32
    input_interval: IntervalProvider | None
    exact_parts: dict[float, list[int] | None]
    kernel: LayerKernel

    def _start_float(self) -> None:
        self.register_buffer("weight_scale", None)
        self.register_buffer("weight_zero", None)
        self.input_interval = None
        self.exact_parts = {}
        self.kernel = simulate

    @property
    def is_quantized(self) -> bool:
        """Whether the weight or the input is quantized."""
        return self.weight_scale is not None or self.input_interval is not None

    def set_weight(self, integers: Tensor, qparams: QParams, bits: int) -> None:
        """Replace the weight by integers.

        Args:
            integers: ``q - z``, integer-valued, of the weight's shape.
            qparams: scale and zero point (C_out,) of an unsigned grid (a symmetric one has zero = 2^(bits-1)).
            bits: width that each ``q`` fits.
        """
        fits = int(integers.min()) >= -128 and int(integers.max()) <= 127
        dtype = torch.int8 if fits else torch.int16
        self.weight = nn.Parameter(integers.reshape(self.weight.shape).to(dtype), requires_grad=False)
        self.weight_scale = qparams.scale.float()
        self.weight_zero = qparams.zero_point.to(torch.int32)
        self.weight_bits = bits
        self.exact_parts = {}

    def dequantized_weight(self) -> Tensor:
        """The float32 weight that the integers stand for (or the float weight itself)."""
        if self.weight_scale is None:
            return self.weight
        return self.weight.float() * self.weight_scale.view(-1, *(1,) * (self.weight.dim() - 1))

    def product(self, x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
        """The stock layer's linear map with another weight; input channels may be a part of the layer's."""
        raise NotImplementedError(f"{type(self).__name__} must define product")


class QuantLinear(QuantizedLayer, nn.Linear):
    """A Linear with integer weight and quantized input, (..., C_in) -> (..., C_out)."""

    def __init__(self, *args, **kwargs):
        nn.Linear.__init__(self, *args, **kwargs)
        self._start_float()

    def product(self, x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
        return nn.functional.linear(x, weight, bias)

    def forward(self, input: Tensor) -> Tensor:
        return opaque(self.kernel, self, input)


class QuantConv2d(QuantizedLayer, nn.Conv2d):
    """A Conv2d with integer weight and quantized input, (B, C_in, H, W) -> (B, C_out, H', W').

    Zero padding is exact: zero is on every grid.
    """

    def __init__(self, *args, **kwargs):
        nn.Conv2d.__init__(self, *args, **kwargs)
        self._start_float()

    def product(self, x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
        return self._conv_forward(x, weight, bias)

    def forward(self, input: Tensor) -> Tensor:
        return opaque(self.kernel, self, input)


def to_quantized(layer: nn.Module) -> QuantLinear | QuantConv2d:
    """A QuantLinear or QuantConv2d with the same parameters (shared, not copied), hooks and mode as ``layer``.

    Raises:
        TypeError: the layer is neither a Linear nor a Conv2d.
    """
    kinds = {nn.Linear: QuantLinear, nn.Conv2d: QuantConv2d}
    quantized_class = next((q for stock, q in kinds.items() if isinstance(layer, stock)), None)
    if quantized_class is None:
        raise TypeError(f"a {type(layer).__name__} cannot be quantized: only Linear and Conv2d can")
    quantized: Any = quantized_class.__new__(quantized_class)
    quantized.__dict__.update(layer.__dict__)
    quantized._start_float()
    return quantized


def quantized_layers(module: nn.Module) -> dict[str, QuantizedLayer]:
    """Layers with a quantized weight or input, by name, in module order."""
    return {n: m for n, m in module.named_modules() if isinstance(m, QuantizedLayer) and m.is_quantized}
