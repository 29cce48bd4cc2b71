"""Whether this machine's integer operators are right: some saturate in 16 bits, whatever the processor is called."""

from functools import cache

import torch
from torch.nn.functional import conv2d

from tempoquant.kernels.operators import NO_POST_OP, ops, packed_convolution


@cache
def integers_are_exact() -> bool:
    """Try the operators on the values that overflow 16 bits, pairwise sums of 255 x 127, against float64 sums."""
    try:
        return _linear_is_exact() and all(_conv_is_exact(kernel) for kernel in (1, 3)) and _product_is_exact()
    except (RuntimeError, AttributeError):
        return False


def _operands(*shape: int) -> tuple[torch.Tensor, torch.Tensor]:
    draw = torch.Generator().manual_seed(0)
    x = torch.where(torch.rand((4, *shape[1:]), generator=draw) < 0.9, 255, 3).to(torch.uint8)
    weight = torch.where(torch.rand(shape, generator=draw) < 0.8, 127, -128).to(torch.int8)
    return x, weight


def _linear_is_exact() -> bool:
    x, weight = _operands(48, 128)
    scale, zero = torch.ones(48), torch.zeros(48, dtype=torch.int32)
    packed = ops.qlinear_prepack(weight, None)
    out = ops.qlinear_pointwise(x, 1.0, 7, packed, scale, zero, None, 1.0, 0, torch.float32, *NO_POST_OP)
    return torch.equal(out.double(), (x.double() - 7) @ weight.double().T)


def _product_is_exact() -> bool:
    x, weight = _operands(48, 128)
    signed = (x.int() - 128).to(torch.int8)
    return torch.equal(torch._int_mm(signed, weight.T).double(), signed.double() @ weight.double().T)


def _conv_is_exact(kernel: int) -> bool:
    x, weight = _operands(32, 64, kernel, kernel)
    x = x[:, :, :1, :1].expand(-1, -1, 8, 8).contiguous(memory_format=torch.channels_last)
    scale, zero = torch.ones(32), torch.zeros(32, dtype=torch.int32)
    geometry = ([1, 1], [kernel // 2] * 2, [1, 1], 1)
    packed = packed_convolution(weight, scale, geometry, x.shape)
    out = ops.qconv2d_pointwise(x, 1.0, 7, packed, scale, zero, None, *geometry, 1.0, 0, torch.float32, *NO_POST_OP)
    return torch.equal(out.double(), conv2d(x.double() - 7, weight.double(), padding=kernel // 2))
