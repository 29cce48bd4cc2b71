"""Stock layers with another one's geometry."""

from typing import Any

from torch import Tensor, nn


def layer_like(layer: nn.Linear | nn.Conv2d, weight: Tensor, bias: Any) -> nn.Linear | nn.Conv2d:
    """A layer of the same kind, geometry and mode, over as many input channels as its weight has.

    Args:
        layer: Linear, or Conv2d of one group; left as it is.
        weight: (C_out, C_in, ...); it learns if the layer's does.
        bias: (C_out,) a parameter that both share, or None.
    """
    like: nn.Linear | nn.Conv2d
    if isinstance(layer, nn.Conv2d):
        shape: Any = {k: getattr(layer, k) for k in ("kernel_size", "stride", "padding", "dilation", "padding_mode")}
        like = nn.Conv2d(weight.shape[1], layer.out_channels, bias=False, device="meta", **shape)
    else:
        like = nn.Linear(weight.shape[1], layer.out_features, bias=False, device="meta")
    like.weight = nn.Parameter(weight, requires_grad=layer.weight.requires_grad)
    like.bias = bias
    return like.train(layer.training)


def channel_axis(layer: nn.Module) -> int:
    """The axis of the input channels in a layer's input."""
    return 1 if isinstance(layer, nn.Conv2d) else -1
