"""Weights that train on a grid: parametrizations of a layer's float weight, folded into integers at the end."""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from tempoquant.layers import QuantizedLayer
from tempoquant.learned import Draws, Reach, Scheme, scaled_gradient
from tempoquant.numerics import QParams, RowLayout, quantize, weight_qparams
from tempoquant.planning import LayerPlan
from tempoquant.randomness import rng


class WeightQuantizer(nn.Module):
    """A weight as its quantized values, one symmetric grid an output channel and group of inputs.

    Args:
        weight: where it starts, of the stock shape.
        scheme: what learns of a grid, and how.
        plan: bits and groups of the layer.
        layout: how the weight is written as rows.
        search: of the first range, a name of ``WEIGHT_RANGES``.
        draws: of the network's training.
    """

    low: Tensor
    high: Tensor

    def __init__(self, weight: Tensor, scheme: Scheme, plan: LayerPlan, layout: RowLayout, search: str, draws: Draws):
        super().__init__()
        bits = plan.weight_bits
        self.scheme, self.bits, self.draws, self.layout = scheme, bits, draws, layout
        self.groups = 1 if plan.group_size is None else layout.input_channels // plan.group_size
        self.register_buffer("low", torch.tensor(float(2 ** (bits - 1))), persistent=False)
        self.register_buffer("high", torch.tensor(float(2 ** (bits - 1) - 1)), persistent=False)
        rows = self.rows(weight)
        start = scheme.weight_start(weight_qparams(rows, bits, True, search).scale.flatten(), self.reach)
        self.fields = nn.ParameterList(nn.Parameter(scheme.raw(value)) for value in start)
        # LSQ's gradient scale, with the weights that share a grid as its N.
        self.gradient_scale = float(rows[0].numel() * self.high.clamp(min=1)) ** -0.5

    @property
    def reach(self) -> Reach:
        """How far the symmetric grid goes from zero, in steps."""
        return Reach(self.low, self.high)

    @property
    def has_stock_rows(self) -> bool:
        """Whether the weight's first axis is that of the grids: it keeps its shape, and scale gradients their bits."""
        return self.groups == 1 and self.layout.output_axis == 0

    def rows(self, weight: Tensor) -> Tensor:
        """The weights that share a grid, row by row: (C_out G, K / G), or (C_out, ...) as they are."""
        if self.has_stock_rows:
            return weight
        return self.layout.to_rows(weight).reshape(self.layout.output_channels * self.groups, -1)

    def from_rows(self, rows: Tensor) -> Tensor:
        """The inverse of :meth:`rows`."""
        if self.has_stock_rows:
            return rows
        return self.layout.from_rows(rows.reshape(self.layout.output_channels, -1))

    def forward(self, weight: Tensor) -> Tensor:
        """``weight`` quantized, with the scheme's gradients."""
        values, rows = self.values(), self.rows(weight)
        interval = self.interval(values).over(rows)
        quantized = self.scheme.fake_quantize(self.scheme.transformed(rows, values), interval, self.draws.now)
        return self.from_rows(quantized)

    def values(self) -> tuple[Tensor, ...]:
        """The scheme's fields, positive; a value an output channel each, unless the scheme says otherwise."""
        return tuple(self.scheme.value(scaled_gradient(raw, self.gradient_scale)) for raw in self.fields)

    def interval(self, values: tuple[Tensor, ...]) -> QParams:
        """The grid of every channel and group, fields (C_out G,)."""
        s_in, s_out = self.scheme.weight_scales(values, self.reach)
        return QParams(s_in, torch.zeros_like(self.low), -self.low, self.high, s_out)

    @torch.no_grad()
    def integers(self, weight: Tensor) -> tuple[Tensor, QParams]:
        """``q - z`` of a weight, of the stock shape, and the unsigned grid (C_out, G) it is stored on."""
        values, rows = self.values(), self.rows(weight.float())
        interval = self.interval(values)
        wide = interval.over(rows)
        q = quantize(self.scheme.transformed(rows, values), wide.scale, wide.zero_point, wide.q_min, wide.q_max)
        scale = interval.output_scale.detach().clone().view(-1, self.groups)
        zero = torch.full(scale.shape, int(self.low), dtype=torch.int32)
        return self.from_rows(q), QParams(scale, zero, 0, 2**self.bits - 1)


class LowRank(nn.Module):
    """A frozen weight with a trained product of two thin matrices added before it is rounded (EfficientDM, ICLR 2024).

    Nothing of it remains once the sum is folded into integers.

    Args:
        weight: (C_out, ...), which stays.
        rank: r of the added ``B A``, (C_out, r) and (r, K); B starts at zero.
        key: names the random start of A.
    """

    def __init__(self, weight: Tensor, rank: int, key: tuple):
        super().__init__()
        rows, columns = weight.shape[0], weight[0].numel()
        drawn = torch.randn(rank, columns, generator=rng(*key)) / columns**0.5
        self.down, self.up = nn.Parameter(drawn), nn.Parameter(torch.zeros(rows, rank))

    def forward(self, weight: Tensor) -> Tensor:
        """``weight`` with the product added."""
        return weight + (self.up @ self.down).view(weight.shape)


def train_weight(layer: QuantizedLayer, *steps: nn.Module) -> None:
    """Let a layer's weight pass through ``steps``, in order, whenever it is used."""
    for step in steps:
        # Unsafe: the original stays what it was although the first step shows another value.
        parametrize.register_parametrization(layer, "weight", step, unsafe=True)


def fold_weight(layer: Any) -> None:
    """Round a weight of :func:`train_weight` to integers, in place; a layer without one is left alone."""
    if not parametrize.is_parametrized(layer, "weight"):
        return
    chain = layer.parametrizations.weight
    weight = chain.original.detach()
    *before, quantizer = chain
    with torch.no_grad():
        for step in before:
            weight = step(weight)
    parametrize.remove_parametrizations(layer, "weight", leave_parametrized=False)
    # Folders store parameters in their order: the weight goes back before the bias.
    if "bias" in layer._parameters:
        layer._parameters["bias"] = layer._parameters.pop("bias")
    layer.set_weight(*quantizer.integers(weight), quantizer.bits)


def weight_quantizers(module: nn.Module) -> list[WeightQuantizer]:
    """All weight quantizers of ``module``, in module order."""
    return [part for part in module.modules() if isinstance(part, WeightQuantizer)]
