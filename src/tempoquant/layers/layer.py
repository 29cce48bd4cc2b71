"""What all quantized layers share: a weight of integers, an input that a provider quantizes, a kernel that computes."""

from collections.abc import Callable
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from tempoquant.graph import StockKind
from tempoquant.intervals import IntervalProvider, KeepsPrecision
from tempoquant.layers.simulation import simulate
from tempoquant.numerics import QParams, RowLayout
from tempoquant.patching import opaque

LayerKernel = Callable[["QuantizedLayer", Tensor], Tensor]
"""Computes a layer's output, in the input's dtype, from the layer and its input."""


class QuantizedLayer(KeepsPrecision):
    """Base of quantized layers: a subclass of this and of its stock class, one for each kind (:func:`layer_kind`).

    A layer made with the stock constructor computes as its stock parent does. :meth:`set_weight` makes its weight
    integers; assigning ``input_interval`` quantizes its input. The two are independent: W4A32 has only the first.

    A subclass defines :meth:`product`, and :meth:`input_vectors` if its rounding may be reconstructed.

    Attributes:
        kind: its entry in the table of kinds.
        weight: float, or the integers ``q - z`` (int8 where they fit, else int16), shape of the stock layer.
        weight_scale: (C_out, G) float32 for G groups of inputs (1: per channel), or None while the weight is float.
        weight_zero: (C_out, G) int32, the unsigned zero points (needed to pack, not to compute), or None.
        weight_bits: width of the weight, 32 while it is float.
        input_interval: provides the input's interval, or None.
        exact_parts: for an input span, the runs of input channels whose sums simulation keeps exact (filled by it).
        kernel: computes the layer; :func:`~tempoquant.layers.simulation.simulate` unless a backend gives another.
        backend: the name of the backend that gave it.
    """

    kind: ClassVar[StockKind]
    weight: Tensor
    bias: Any
    weight_scale: Tensor | None
    weight_zero: Tensor | None
    weight_bits: int = 32
    input_interval: IntervalProvider | None
    exact_parts: dict[float, Any]
    kernel: LayerKernel
    backend: str

    def __init__(self, *args: Any, **kwargs: Any):
        self.kind.stock.__init__(self, *args, **kwargs)
        self.start_float()

    def start_float(self) -> None:
        """Begin with the float weight and input of the stock layer."""
        self.register_buffer("weight_scale", None)
        self.register_buffer("weight_zero", None)
        self.input_interval = None
        self.exact_parts = {}
        self.kernel = simulate
        self.backend = "simulation"

    def forward(self, input: Tensor) -> Tensor:
        """The layer's output, computed by its kernel."""
        return opaque(self.kernel, self, input)

    @property
    def is_quantized(self) -> bool:
        """Whether the weight or the input is quantized."""
        return self.weight_scale is not None or self.input_interval is not None

    @property
    def layout(self) -> RowLayout:
        """How the weight is written as rows (C_out, K)."""
        return RowLayout(tuple(self.weight.shape), self.kind.output_axis, getattr(self, "groups", 1))

    @property
    def weight_groups(self) -> int:
        """G, groups of inputs that have a weight scale of their own."""
        return 1 if self.weight_scale is None else self.weight_scale.shape[1]

    @property
    def group_size(self) -> int | None:
        """Input channels that share a weight scale; None where all of an output channel do."""
        return None if self.weight_groups == 1 else self.layout.input_channels // self.weight_groups

    def set_weight(self, integers: Tensor, qparams: QParams, bits: int) -> None:
        """Replace the weight by integers.

        Args:
            integers: ``q - z``, integer-valued, of the weight's shape.
            qparams: scale and zero point (C_out, G) of an unsigned grid (a symmetric one has zero = 2^(bits-1)).
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
        """The float32 weight that the integers stand for (or the float weight itself), of the stock shape."""
        if self.weight_scale is None:
            return self.weight
        return self.weight.float() * self.layout.broadcast(self.weight_scale)

    def output_dtype(self, x: Tensor) -> torch.dtype:
        """The dtype of the output for an input ``x``: the input's own."""
        return x.dtype

    def over_channels(self, x: Tensor, start: int, stop: int) -> Tensor:
        """Input channels ``start`` to ``stop`` of every convolution group, as the layout's ``over_channels`` cuts."""
        groups = self.layout.groups
        if groups == 1:
            return x.narrow(self.kind.channel_axis, start, stop - start)
        axis = x.dim() + self.kind.channel_axis
        return x.unflatten(axis, (groups, -1)).narrow(axis + 1, start, stop - start).flatten(axis, axis + 1)

    def over_output(self, values: Tensor) -> Tensor:
        """Values of every output channel, (C_out,), shaped to broadcast against the output."""
        return values.view(-1, *(1,) * self.kind.spatial)

    def product(self, x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
        """The stock layer's linear map with another weight; input channels may be a part of the layer's."""
        raise NotImplementedError(f"{type(self).__name__} must define product")

    @property
    def has_input_vectors(self) -> bool:
        """Whether :meth:`input_vectors` exist: not where groups of channels or look-ups give rows different inputs."""
        return self.layout.groups == 1 and not self.kind.looks_up

    def input_vectors(self, x: Tensor, most: int, rng: torch.Generator) -> Tensor:
        """At most ``most`` of the vectors that the rows of the weight multiply, drawn without replacement: (M, K).

        Args:
            x: an input of the layer.
            most: vectors.
            rng: the same state draws the same positions for any input of the same shape.
        """
        raise NotImplementedError(f"{type(self).__name__} must define input_vectors")


def quantized_layers(module: nn.Module) -> dict[str, QuantizedLayer]:
    """Layers with a quantized weight or input, by name, in module order."""
    return {n: m for n, m in module.named_modules() if isinstance(m, QuantizedLayer) and m.is_quantized}
