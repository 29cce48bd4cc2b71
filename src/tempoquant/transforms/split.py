"""Split shortcut quantization (Q-Diffusion, Li et al., ICCV 2023, section 4.2).

The input of a layer behind a skip connection is two tensors side by side, each with a range of its own: the deep
features h and the shallow ones they are joined with. The layer is replaced by two, one for each range of channels, so
that both parts get grids of their own for weights and activations. Two integer accumulations add up to one output.
"""

from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from tempoquant.errors import FormatError
from tempoquant.layers import places_of

PARTS = ("first", "second")


class SplitLayer(nn.Module):
    """A Linear or Conv2d as ``first(x[:, :split]) + second(x[:, split:])``; the first part has the bias.

    Args:
        layer: Linear, or Conv2d of one group; left as it is.
        split: channels of the first part, 1 to C_in - 1.
    """

    def __init__(self, layer: nn.Linear | nn.Conv2d, split: int):
        super().__init__()
        self.split, self.axis = split, 1 if isinstance(layer, nn.Conv2d) else -1
        self.first = _part(layer, 0, split, layer.bias)
        self.second = _part(layer, split, layer.weight.shape[1], None)
        self.train(layer.training)

    def forward(self, input: Tensor) -> Tensor:
        first, second = input.tensor_split((self.split,), self.axis)
        return self.first(first) + self.second(second)


def install_splits(module: nn.Module, splits: Mapping[str, int]) -> None:
    """Replace the named layers by their two parts, called ``<layer>.first`` and ``<layer>.second``.

    Raises:
        FormatError: a name is no Linear or Conv2d of ``module``, or has not that many channels.
    """
    places = places_of(module)
    for name, split in splits.items():
        try:
            stock = module.get_submodule(name)
        except AttributeError:
            stock = nn.Identity()
        if not isinstance(stock, nn.Linear | nn.Conv2d) or not 0 < split < stock.weight.shape[1]:
            raise FormatError(f"the denoiser has no Linear or Conv2d called {name!r} to split at channel {split}")
        parts = SplitLayer(stock, split)
        for parent, child in places[id(stock)]:
            setattr(parent, child, parts)


def _part(layer: nn.Linear | nn.Conv2d, start: int, stop: int, bias: Any) -> nn.Linear | nn.Conv2d:
    """The layer over input channels ``start`` to ``stop``."""
    part: nn.Linear | nn.Conv2d
    if isinstance(layer, nn.Conv2d):
        shape: Any = {k: getattr(layer, k) for k in ("kernel_size", "stride", "padding", "dilation", "padding_mode")}
        part = nn.Conv2d(stop - start, layer.out_channels, bias=False, device="meta", **shape)
    else:
        part = nn.Linear(stop - start, layer.out_features, bias=False, device="meta")
    part.weight = nn.Parameter(layer.weight.detach()[:, start:stop].clone(), requires_grad=layer.weight.requires_grad)
    part.bias = bias
    return part.train(layer.training)
