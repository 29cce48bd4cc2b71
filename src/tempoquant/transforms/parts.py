"""Stock layers with another one's geometry."""

from typing import Any

from torch import Tensor, nn

from tempoquant.graph import StockKind, kind_of

GEOMETRY = ("kernel_size", "stride", "padding", "dilation", "padding_mode")


def is_transformable(layer: nn.Module) -> bool:
    """Whether layers of its class can take its place: its kind says so, and it has one group of channels."""
    kind = kind_of(layer)
    return kind is not None and kind.transformable and getattr(layer, "groups", 1) == 1


def layer_like(layer: nn.Module, weight: Tensor, bias: Any) -> nn.Module:
    """A layer of the same kind, geometry and mode, over as many input channels as its weight has.

    Args:
        layer: Linear, or convolution of one group; left as it is.
        weight: (C_out, C_in, ...); it learns if the layer's does.
        bias: (C_out,) a parameter that both share, or None.
    """
    geometry: dict[str, Any] = {name: getattr(layer, name) for name in GEOMETRY if hasattr(layer, name)}
    stock: Any = _kind(layer).stock
    like = stock(weight.shape[1], weight.shape[0], bias=False, device="meta", **geometry)
    like.weight = nn.Parameter(weight, requires_grad=layer.get_parameter("weight").requires_grad)
    like.bias = bias
    return like.train(layer.training)


def input_channels(layer: nn.Module) -> int:
    """C_in of a layer of one group."""
    return _kind(layer).input_channels(layer)


def channel_axis(layer: nn.Module) -> int:
    """The axis of the input channels in a layer's input, counted from the end."""
    return _kind(layer).channel_axis


def _kind(layer: nn.Module) -> StockKind:
    kind = kind_of(layer)
    assert kind is not None
    return kind
