"""torch's oneDNN operators for uint8 x int8, and in which order this processor's kernels apply scales.

All of them sum in int32. What follows is ``(acc * s_x) * s_w + b`` in some of oneDNN's kernels, and
``acc * (s_x * s_w) + b`` in those for AMX, which differs in the last bit.
"""

from functools import cache
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import conv2d, linear

ops: Any = torch.ops.onednn
NO_POST_OP: tuple[str, list[Any], str] = ("none", [], "")
SOME_ZERO_POINT = 128


def packed_convolution(weight: Tensor, scale: Any, geometry: tuple[Any, ...], shape: torch.Size) -> Tensor:
    """A convolution's weight in the layout that the operators want for inputs of ``shape``, with any zero point.

    Args:
        weight: (C_out, C_in / groups, H, W) int8. scale: (C_out,). geometry: stride, padding, dilation, groups.
    """
    # Scale and zero point choose the layout alone. That of zero point 0 lacks the sums of weights that others need,
    # which every call would then make anew; and once asked for it, the operators keep to it for weights of this shape.
    return ops.qconv_prepack(weight, scale, 1.0, SOME_ZERO_POINT, *geometry, list(shape))


@cache
def scales_apply_in_order() -> bool:
    """Whether the operators here finish with ``(acc * s_x) * s_w + b``, bit for bit; else scales and bias are ours."""
    draw = torch.Generator().manual_seed(0)
    weight = torch.randint(-128, 128, (64, 64, 3, 3), generator=draw).to(torch.int8)
    x = torch.randint(0, 256, (2, 64, 8, 8), generator=draw).to(torch.uint8)
    s_x, scale, bias = 0.0371, torch.rand(64, generator=draw) + 0.01, torch.randn(64, generator=draw)
    zeros, numbers = torch.zeros(64, dtype=torch.int32), (1.0, 0, torch.float32, *NO_POST_OP)
    found, meant = [], []
    for kernel in (1, 3):
        part = weight[:, :, :kernel, :kernel].contiguous()
        geometry = ([1, 1], [kernel // 2] * 2, [1, 1], 1)
        packed = packed_convolution(part, scale, geometry, x.shape)
        q = x.contiguous(memory_format=torch.channels_last)
        found.append(ops.qconv2d_pointwise(q, s_x, 7, packed, scale, zeros, bias, *geometry, *numbers))
        acc = conv2d(x.double() - 7, part.double(), padding=kernel // 2).float()
        meant.append(apply_scale_and_bias(acc * s_x, scale, bias))
    rows, matrix = x.permute(0, 2, 3, 1).reshape(-1, 64), weight[:, :, 0, 0].contiguous()
    found.append(ops.qlinear_pointwise(rows, s_x, 7, ops.qlinear_prepack(matrix, None), scale, zeros, bias, *numbers))
    meant.append(linear(rows.double() - 7, matrix.double()).float() * s_x * scale + bias)
    return all(torch.equal(a, b) for a, b in zip(found, meant, strict=True))


def apply_scale_and_bias(out: Tensor, scale: Tensor, bias: Tensor | None) -> Tensor:
    """``out * scale + bias`` in place, rounded after each; ``out`` is (B, C, H, W) or (N, C)."""
    shape = (-1,) + (1,) * (out.dim() - 2)
    out.mul_(scale.view(shape))
    return out if bias is None else out.add_(bias.view(shape))
