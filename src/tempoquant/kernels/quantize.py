"""Activations to integers: in one pass where a C compiler is at hand, in several torch calls elsewhere."""

from typing import NamedTuple

import torch
from torch import Tensor

from tempoquant.intervals import ScalarQParams
from tempoquant.kernels.compiled import PIECE, compiled_passes
from tempoquant.layers import quantized_input
from tempoquant.numerics import QParams

MIDDLE = 128


class GroupNormParams(NamedTuple):
    """Parameters of a GroupNorm at the time of its call: its weights may be offloaded before a deferred norm is read.

    Attributes:
        groups: number of channel groups.
        weight: (C,) float32.
        bias: (C,) float32.
        eps: added to the variance.
    """

    groups: int
    weight: Tensor
    bias: Tensor
    eps: float


def quantize_to_uint8(x: Tensor, numbers: ScalarQParams) -> Tensor:
    """``clamp(round(x / s) + z, q_min, q_max)`` as uint8, laid out as ``x``."""
    made = _in_one_pass("tempoquant_bytes", x, numbers, torch.uint8)
    if made is not None:
        return made
    q = (x.float() / numbers.scale).round_().add_(numbers.zero_point)
    return q.clamp_(numbers.q_min, numbers.q_max).to(torch.uint8)


def quantize_to_int8(x: Tensor, numbers: ScalarQParams) -> Tensor:
    """:func:`quantize_to_uint8` less 128, as int8."""
    # The pass keeps the last byte of an integer, which is that of its int8 too.
    made = _in_one_pass("tempoquant_bytes", x, _signed(numbers), torch.uint8)
    return (quantize_to_uint8(x, numbers) ^ MIDDLE if made is None else made).view(torch.int8)


def dequantize_centered(x: Tensor, interval: QParams) -> Tensor:
    """:func:`~tempoquant.layers.simulation.quantized_input`, in one pass where it can be."""
    if interval.scale.dim():
        return quantized_input(x, interval)
    made = _in_one_pass("tempoquant_centred", x, ScalarQParams.of(interval), torch.float32)
    return quantized_input(x, interval) if made is None else made


def norm_silu_to_uint8(x: Tensor, norm: GroupNormParams, numbers: ScalarQParams) -> Tensor | None:
    """:func:`quantize_to_uint8` of ``silu(group_norm(x))`` in two readings of ``x``; None without a compiler.

    Args:
        x: (B, C, H, W) float32 on the processor.

    Returns:
        (B, C, H, W) uint8, channels last. Where rounding is a near tie an integer may be the neighbour of what torch's
        own calls give: sums are made in another order.
    """
    library = compiled_passes()
    if library is None:
        return None
    x = x.contiguous(memory_format=torch.channels_last)
    q = torch.empty_like(x, dtype=torch.uint8)
    items, channels, rows = x.shape[0], x.shape[1], x.shape[2] * x.shape[3]
    work = torch.empty(items * channels * (2 * -(-rows // PIECE) + 2))
    sizes = (items, rows, channels, norm.groups)
    weight, bias = norm.weight.contiguous(), norm.bias.contiguous()
    affine = (weight.data_ptr(), bias.data_ptr(), norm.eps)
    library.tempoquant_norm_silu_bytes(x.data_ptr(), q.data_ptr(), work.data_ptr(), *sizes, *affine, *numbers[:4])
    return q


def softmax_to_int8(
    acc: Tensor, owed: tuple[Tensor, Tensor], factors: tuple[float, float, float], numbers: ScalarQParams
) -> tuple[Tensor, Tensor]:
    """:func:`quantize_to_int8` of the softmax of rows of scores, and the sum of each row of them.

    Args:
        acc: (T, S) int32, a product of bytes. owed: (T,) and (S,) int32 to be added to its rows and columns.
        factors: the scores are ``acc`` times these, one after the other. numbers: of the softmax.

    Returns:
        (T, S) int8 and (T,) int32. Where rounding is a near tie a byte may be the neighbour of what torch's softmax
        gives.
    """
    library = compiled_passes()
    row, column = owed
    if library is None:
        scores = (acc + row[:, None] + column).float()
        for factor in factors:
            scores = scores * factor
        made = quantize_to_int8(scores.softmax(-1), numbers)
        return made, made.sum(1, dtype=torch.int32)
    made, sums = torch.empty(acc.shape, dtype=torch.int8), torch.empty(len(acc), dtype=torch.int32)
    workers = torch.get_num_threads()
    work = torch.empty(workers * acc.shape[1])
    parts = (acc, made, sums, work, row.contiguous(), column.contiguous())
    pointers = (part.data_ptr() for part in parts)
    library.tempoquant_softmax_bytes(*pointers, *acc.shape, workers, *factors, *_signed(numbers)[:4])
    return made, sums


def _signed(numbers: ScalarQParams) -> ScalarQParams:
    """Those that give bytes less 128."""
    low, high = numbers.q_min - MIDDLE, numbers.q_max - MIDDLE
    return numbers._replace(zero_point=numbers.zero_point - MIDDLE, q_min=low, q_max=high)


def _in_one_pass(name: str, x: Tensor, numbers: ScalarQParams, dtype: torch.dtype) -> Tensor | None:
    """The result of a compiled pass over ``x``; None without a compiler, or if ``x`` has no numbers in this memory."""
    library = compiled_passes()
    if library is None or type(x) is not Tensor or x.device.type != "cpu":
        return None
    x = x.float()
    q = torch.empty_like(x, dtype=dtype)
    if q.stride() != x.stride():
        x = x.contiguous()
        q = torch.empty_like(x, dtype=dtype)
    getattr(library, name)(x.data_ptr(), q.data_ptr(), x.numel(), *numbers[:4])
    return q
