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
    (top, left), (height, width) = _padding(layer), layer.kernel_size
    padded = nn.functional.pad(x, (left, left, top, top))
    windows = padded
    for axis, (kernel, stride, dilation) in enumerate(zip((height, width), layer.stride, layer.dilation, strict=True)):
        windows = windows.unfold(2 + axis, dilation * (kernel - 1) + 1, stride)
    windows = windows[..., :: layer.dilation[0], :: layer.dilation[1]].permute(0, 2, 3, 1, 4, 5)
    count = windows.shape[0] * windows.shape[1] * windows.shape[2]
    chosen = torch.arange(count) if count <= most else torch.randperm(count, generator=generator)[:most]
    columns = windows.shape[2]
    image, place = chosen // (windows.shape[1] * columns), chosen % (windows.shape[1] * columns)
    return windows[image, place // columns, place % columns].flatten(1)


def _padding(layer: nn.Conv2d) -> tuple[int, int]:
    if isinstance(layer.padding, str):
        spans = [d * (k - 1) for d, k in zip(layer.dilation, layer.kernel_size, strict=True)]
        return (spans[0] // 2, spans[1] // 2) if layer.padding == "same" else (0, 0)
    return layer.padding  # type: ignore[return-value]
