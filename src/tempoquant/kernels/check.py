"""Whether this machine's int8 operators are right, and in which order they apply scales.

Some saturate in 16 bits, whatever the processor is called. All that are right sum in int32. What follows is
``(acc * s_x) * s_w + b`` in some of oneDNN's kernels, and ``acc * (s_x * s_w) + b`` in those for AMX, which differs in
the last bit.
"""

from collections.abc import Iterator
from functools import cache
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import conv2d, linear

from tempoquant.kernels.operators import NO_POST_OP, apply_scale_and_bias, ops, packed_convolution

ZERO_POINT = 7


class _Trial(NamedTuple):
    """Operands of the operators that are tried.

    Attributes:
        x: (B, C_in, 8, 8) uint8.
        weight: (C_out, C_in, 3, 3) int8.
        x_scale: of the input, whose zero point is :data:`ZERO_POINT`.
        scale: (C_out,) float32, of the weight.
        bias: (C_out,) float32, or None.
    """

    x: Tensor
    weight: Tensor
    x_scale: float
    scale: Tensor
    bias: Tensor | None


@cache
def integers_are_exact() -> bool:
    """Whether sums are those of float64, on values whose pairwise sums, of products 255 x 127, overflow 16 bits."""
    draw = torch.Generator().manual_seed(0)
    x = torch.where(torch.rand((4, 128, 8, 8), generator=draw) < 0.9, 255, 3).to(torch.uint8)
    weight = torch.where(torch.rand((48, 128, 3, 3), generator=draw) < 0.8, 127, -128).to(torch.int8)
    try:
        results = _results(_Trial(x, weight, 1.0, torch.ones(48), None))
        return all(torch.equal(out.double(), acc) for out, acc in results) and _product_is_exact(x, weight)
    except (RuntimeError, AttributeError):
        return False


@cache
def scales_apply_in_order() -> bool:
    """Whether outputs are ``(acc * s_x) * s_w + b`` bit for bit; else scale and bias are applied in a further pass."""
    draw = torch.Generator().manual_seed(0)
    weight = torch.randint(-128, 128, (64, 64, 3, 3), generator=draw).to(torch.int8)
    x = torch.randint(0, 256, (2, 64, 8, 8), generator=draw).to(torch.uint8)
    scale, bias = torch.rand(64, generator=draw) + 0.01, torch.randn(64, generator=draw)
    trial = _Trial(x, weight, 0.0371, scale, bias)
    return all(
        torch.equal(out, apply_scale_and_bias(acc.float() * trial.x_scale, scale, bias)) for out, acc in _results(trial)
    )


def _results(trial: _Trial) -> Iterator[tuple[Tensor, Tensor]]:
    """Float32 outputs of convolutions and of a matrix product, and their exact integer sums in float64."""
    x, weight, x_scale, scale, bias = trial
    zeros, numbers = torch.zeros(len(scale), dtype=torch.int32), (1.0, 0, torch.float32, *NO_POST_OP)
    images = x.contiguous(memory_format=torch.channels_last)
    for size in (1, 3):
        part = weight[:, :, :size, :size].contiguous()
        geometry = ([1, 1], [size // 2] * 2, [1, 1], 1)
        packed = packed_convolution(part, scale, geometry, x.shape)
        out = ops.qconv2d_pointwise(images, x_scale, ZERO_POINT, packed, scale, zeros, bias, *geometry, *numbers)
        yield out, conv2d(x.double() - ZERO_POINT, part.double(), padding=size // 2)
    rows, matrix = x.permute(0, 2, 3, 1).reshape(-1, x.shape[1]), weight[:, :, 0, 0].contiguous()
    packed = ops.qlinear_prepack(matrix, None)
    out = ops.qlinear_pointwise(rows, x_scale, ZERO_POINT, packed, scale, zeros, bias, *numbers)
    yield out, linear(rows.double() - ZERO_POINT, matrix.double())


def _product_is_exact(x: Tensor, weight: Tensor) -> bool:
    """Whether the product of signed bytes that attention uses is exact."""
    rows = (x.permute(0, 2, 3, 1).reshape(-1, x.shape[1]).int() - 128).to(torch.int8)
    matrix = weight[:, :, 0, 0].contiguous()
    return torch.equal(torch._int_mm(rows, matrix.T).double(), rows.double() @ matrix.double().T)
