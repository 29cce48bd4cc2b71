"""A layer's input as vectors that its weight multiplies: what the closed-form reconstruction needs of it."""

import torch
from torch import Tensor, nn


def input_vectors(layer: nn.Module, x: Tensor, most: int, generator: torch.Generator) -> Tensor:
    """At most ``most`` input vectors of a layer, drawn without replacement: (M, K), K = weight.numel() / C_out.

    For a convolution an input vector is the patch under one output position, padding included. The same generator
    state draws the same positions for any input of the same shape.

    Args:
        layer: Linear, or Conv2d of one group.
        x: (..., C_in), or (B, C_in, H, W).
    """
    if isinstance(layer, nn.Conv2d):
        return _patches(layer, x, most, generator)
    rows = x.reshape(-1, x.shape[-1])
    return rows if rows.shape[0] <= most else rows[torch.randperm(rows.shape[0], generator=generator)[:most]]


def _patches(layer: nn.Conv2d, x: Tensor, most: int, generator: torch.Generator) -> Tensor:
    (top, left), (down, right) = _padding(layer), layer.stride
    # Channels last: a patch is then a few contiguous runs of memory.
    padded = nn.functional.pad(x.permute(0, 2, 3, 1), (0, 0, left, left, top, top))
    images, height, width, channels = padded.shape
    below, beside = (range(0, d * k, d) for d, k in zip(layer.dilation, layer.kernel_size, strict=True))
    rows, columns = (height - below[-1] - 1) // down + 1, (width - beside[-1] - 1) // right + 1
    count = images * rows * columns
    chosen = torch.arange(count) if count <= most else torch.randperm(count, generator=generator)[:most]
    image, place = chosen // (rows * columns), chosen % (rows * columns)
    corner = (image * height + place // columns * down) * width + place % columns * right
    under = torch.tensor([down_by * width + right_by for down_by in below for right_by in beside])
    pixels = padded.reshape(-1, channels)[(corner[:, None] + under).flatten()]
    return pixels.view(len(chosen), len(under), channels).transpose(1, 2).flatten(1)


def _padding(layer: nn.Conv2d) -> tuple[int, int]:
    if isinstance(layer.padding, str):
        spans = [d * (k - 1) for d, k in zip(layer.dilation, layer.kernel_size, strict=True)]
        return (spans[0] // 2, spans[1] // 2) if layer.padding == "same" else (0, 0)
    return layer.padding  # type: ignore[return-value]
