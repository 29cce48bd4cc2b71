"""torch's oneDNN operators for uint8 x int8."""

from typing import Any

import torch
from torch import Tensor

ops: Any = torch.ops.onednn
NO_POST_OP: tuple[str, list[Any], str] = ("none", [], "")
SOME_ZERO_POINT = 128


def packed_convolution(weight: Tensor, scale: Any, geometry: tuple[Any, ...], shape: torch.Size) -> Tensor:
    """A convolution's weight in the layout that the operators want for inputs of ``shape``, with any zero point.

    Args:
        weight: (C_out, C_in / groups, H, W) int8.
        scale: (C_out,) float32.
        geometry: stride, padding, dilation, groups.
        shape: (B, C_in, H, W).
    """
    # Scale and zero point choose the layout alone. That of zero point 0 lacks the sums of weights that others need,
    # which every call would then compute; and once asked for it, the operators keep to it for weights of this shape.
    return ops.qconv_prepack(weight, scale, 1.0, SOME_ZERO_POINT, *geometry, list(shape))


def apply_scale_and_bias(out: Tensor, scale: Tensor, bias: Tensor | None) -> Tensor:
    """``out * scale + bias`` in place, rounded after each; ``out`` is (B, C, H, W) or (N, C)."""
    shape = (-1,) + (1,) * (out.dim() - 2)
    out.mul_(scale.view(shape))
    return out if bias is None else out.add_(bias.view(shape))
