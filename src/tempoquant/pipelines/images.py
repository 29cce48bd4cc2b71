"""Samples as pictures."""

import torch
from torch import Tensor


def to_images(x: Tensor) -> Tensor:
    """Pixels in [-1, 1], (N, C, H, W), as uint8 (N, H, W, C): round((clamp(x, -1, 1) + 1) * 127.5)."""
    return ((x.float().clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8).permute(0, 2, 3, 1).contiguous()
