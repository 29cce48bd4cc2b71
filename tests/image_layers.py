"""Layers that are no Linear and no Conv2d as parts of image denoisers: each takes (B, 4, H, W) and gives that shape."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class Rows(nn.Module):
    """A module over all pixels as one signal (B, 4, H W), or as tokens (B, H W, 4)."""

    def __init__(self, part: nn.Module, tokens: bool = False):
        super().__init__()
        self.part, self.tokens = part, tokens

    def forward(self, x: Tensor) -> Tensor:
        rows = x.flatten(2).mT if self.tokens else x.flatten(2)
        out = self.part(rows, rows, rows) if isinstance(self.part, nn.MultiheadAttention) else self.part(rows)
        out = out[0] if isinstance(out, tuple) else out
        return (out.mT if self.tokens else out).reshape(x.shape)


class Volume(nn.Module):
    """A convolution over two slices of two channels."""

    def __init__(self, convolution: type[nn.Module] = nn.Conv3d) -> None:
        super().__init__()
        self.part = convolution(2, 2, 3, padding=1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.part(x.unflatten(1, (2, 2))).flatten(1, 2)


class Decoder(nn.Module):
    """Halves the sides, and doubles them again."""

    def __init__(self) -> None:
        super().__init__()
        self.part = nn.ConvTranspose2d(4, 4, 2, stride=2)

    def forward(self, x: Tensor) -> Tensor:
        return self.part(F.avg_pool2d(x, 2))


class Function(nn.Module):
    """A convolution with a parameter that belongs to no layer."""

    def __init__(self) -> None:
        super().__init__()
        self.kernel = nn.Parameter(torch.randn(4, 4, 3, 3))

    def forward(self, x: Tensor) -> Tensor:
        return F.conv2d(x, self.kernel, padding=1)
