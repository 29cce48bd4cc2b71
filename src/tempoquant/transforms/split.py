"""Split shortcut quantization (Q-Diffusion, Li et al., ICCV 2023, section 4.2).

The input of a layer behind a skip connection is two tensors side by side, each with a range of its own: the deep
features h and the shallow ones they are joined with. The layer is replaced by two, one for each range of channels, so
that both parts get grids of their own for weights and activations. Two integer accumulations add up to one output.
"""

from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from tempoquant.transforms.parts import channel_axis, input_channels, is_transformable, layer_like
from tempoquant.transforms.transform import Transform, register


@register("split")
@dataclass(frozen=True)
class Split(Transform):
    """Two layers in the place of one: over the first channels of the input, and over the others.

    Attributes:
        channels: of the first part, 1 to C_in - 1.
    """

    channels: int
    parts = ("first", "second")

    def replacement(self, layer: Any) -> nn.Module:
        return SplitLayer(layer, self.channels)

    def part_shapes(self, shape: tuple[int, ...]) -> tuple[tuple[int, ...], ...]:
        channels_out, channels_in, *kernel = shape
        return tuple((channels_out, width, *kernel) for width in (self.channels, channels_in - self.channels))

    def suits(self, layer: nn.Module) -> bool:
        return is_transformable(layer) and 0 < self.channels < input_channels(layer)

    def __str__(self) -> str:
        return f"to split at channel {self.channels}"


class SplitLayer(nn.Module):
    """A Linear or convolution as ``first(x[:, :split]) + second(x[:, split:])``; the first part has the bias.

    Args:
        layer: Linear, or convolution of one group; left as it is.
        split: channels of the first part, 1 to C_in - 1.
    """

    def __init__(self, layer: Any, split: int):
        super().__init__()
        self.split, self.axis = split, channel_axis(layer)
        weight = layer.weight.detach()
        self.first = layer_like(layer, weight[:, :split].clone(), layer.bias)
        self.second = layer_like(layer, weight[:, split:].clone(), None)
        self.train(layer.training)

    def forward(self, input: Tensor) -> Tensor:
        first, second = input.tensor_split((self.split,), self.axis)
        return self.first(first) + self.second(second)
