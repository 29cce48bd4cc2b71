"""Rotation of a layer's input channels (ConvRot; QuaRot, Ashkboos et al., NeurIPS 2024): ``W x = (W R)(R x)``, R R = I.

The rotation mixes the channels of a group, so that one channel's outliers no longer widen the grid of all others. It is
applied to the weight once, when the model is prepared, and to the input at every call.
"""

from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from tempoquant.numerics import ROTATION_GROUPS, rotate
from tempoquant.transforms.parts import channel_axis, input_channels, is_transformable, layer_like
from tempoquant.transforms.transform import Transform, register


@register("rotate")
@dataclass(frozen=True)
class Rotate(Transform):
    """A layer over rotated inputs, its weight rotated likewise.

    Attributes:
        group: channels that are mixed, of :data:`~tempoquant.numerics.ROTATION_GROUPS`; divides C_in.
    """

    group: int
    parts = ("rotated",)

    def replacement(self, layer: Any) -> nn.Module:
        return RotatedLayer(layer, self.group)

    def part_shapes(self, shape: tuple[int, ...]) -> tuple[tuple[int, ...], ...]:
        return (shape,)

    def suits(self, layer: nn.Module) -> bool:
        return self.group in ROTATION_GROUPS and is_transformable(layer) and input_channels(layer) % self.group == 0

    def __str__(self) -> str:
        return f"to rotate in groups of {self.group}"


class RotatedLayer(nn.Module):
    """A Linear or convolution of rotated channels: (..., C_in) -> (..., C_out), or (B, C_in, ...) -> (B, C_out, ...).

    Args:
        layer: Linear, or convolution of one group; left as it is.
        group: see :class:`Rotate`.
    """

    def __init__(self, layer: Any, group: int):
        super().__init__()
        self.group, self.axis = group, channel_axis(layer)
        weight = layer.weight.detach()
        # A weight on the meta device is one whose numbers come from a folder, where they are rotated already.
        rotated = weight if weight.is_meta else rotate(weight.float(), group, 1).to(weight.dtype)
        self.rotated = layer_like(layer, rotated, layer.bias)
        self.train(layer.training)

    def forward(self, input: Tensor) -> Tensor:
        """The layer's output; the input is rotated in its own dtype."""
        return self.rotated(rotate(input, self.group, self.axis))
