"""Quantization of activations to 8-bit integers: one pass in C if there is a compiler, else several torch operators."""

from typing import NamedTuple

import torch
from torch import Tensor

from tempoquant.intervals import ScalarQParams
from tempoquant.kernels.compiled import PIECE, compiled_passes
from tempoquant.layers import quantized_input
from tempoquant.numerics import QParams

OFFSET = 128
"""Between uint8 and int8 integers of one grid."""


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


def quantize_to_uint8(x: Tensor, qparams: ScalarQParams) -> Tensor:
    """``clamp(round(x / s) + z, q_min, q_max)`` as uint8, of x's shape and memory layout."""
    result = _in_one_pass("tempoquant_quantize", x, qparams, torch.uint8)
    if result is not None:
        return result
    q = (x.float() / qparams.scale).round_().add_(qparams.zero_point)
    return q.clamp_(qparams.q_min, qparams.q_max).to(torch.uint8)


def quantize_to_int8(x: Tensor, qparams: ScalarQParams) -> Tensor:
    """``clamp(round(x / s) + z, q_min, q_max) - 128`` as int8, of x's shape and memory layout."""
    # The pass keeps the last byte of an integer, which is the same for int8.
    result = _in_one_pass("tempoquant_quantize", x, _signed(qparams), torch.uint8)
    return (quantize_to_uint8(x, qparams) ^ OFFSET if result is None else result).view(torch.int8)


def dequantize_centered(x: Tensor, interval: QParams) -> Tensor:
    """``clamp(round(x / s) + z, q_min, q_max) - z``, integer-valued float32 of x's shape."""
    if interval.scale.dim():
        return quantized_input(x, interval)
    result = _in_one_pass("tempoquant_quantize_centered", x, ScalarQParams.of(interval), torch.float32)
    return quantized_input(x, interval) if result is None else result


def norm_silu_to_uint8(x: Tensor, norm: GroupNormParams, qparams: ScalarQParams) -> Tensor | None:
    """:func:`quantize_to_uint8` of ``silu(group_norm(x))``, fused: ``x`` is read twice.

    Args:
        x: (B, C, H, W) float32 on the CPU.
        norm: parameters of the norm.
        qparams: of the convolution that reads the result.

    Returns:
        (B, C, H, W) uint8, channels last, or None without a compiler. Sums run in another order than torch's, so an
        integer may differ by one where rounding is a near tie.
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
    library.tempoquant_norm_silu_quantize(x.data_ptr(), q.data_ptr(), work.data_ptr(), *sizes, *affine, *qparams[:4])
    return q


def softmax_to_int8(
    acc: Tensor, zero_terms: tuple[Tensor, Tensor], factors: tuple[float, float, float], qparams: ScalarQParams
) -> tuple[Tensor, Tensor]:
    """:func:`quantize_to_int8` of the softmax of each row of scores, and the sums of its rows.

    Args:
        acc: (T, S) int32, a product of int8 matrices.
        zero_terms: (T,) and (S,) int32, what zero points add to its rows and columns.
        factors: the scores are the sums times these, one after the other.
        qparams: of the softmax.

    Returns:
        (T, S) int8 and (T,) int32. An integer may differ by one from that of torch's softmax where rounding is a near
        tie.
    """
    library = compiled_passes()
    row, column = zero_terms
    if library is None:
        scores = (acc + row[:, None] + column).float()
        for factor in factors:
            scores = scores * factor
        result = quantize_to_int8(scores.softmax(-1), qparams)
        return result, result.sum(1, dtype=torch.int32)
    result, sums = torch.empty(acc.shape, dtype=torch.int8), torch.empty(len(acc), dtype=torch.int32)
    workers = torch.get_num_threads()
    work = torch.empty(workers * acc.shape[1])
    parts = (acc, result, sums, work, row.contiguous(), column.contiguous())
    pointers = (part.data_ptr() for part in parts)
    library.tempoquant_softmax_quantize(*pointers, *acc.shape, workers, *factors, *_signed(qparams)[:4])
    return result, sums


def _signed(qparams: ScalarQParams) -> ScalarQParams:
    """The parameters of the int8 grid: that of uint8 less 128."""
    low, high = qparams.q_min - OFFSET, qparams.q_max - OFFSET
    return qparams._replace(zero_point=qparams.zero_point - OFFSET, q_min=low, q_max=high)


def _in_one_pass(name: str, x: Tensor, qparams: ScalarQParams, dtype: torch.dtype) -> Tensor | None:
    """The result of a compiled pass over ``x``; None without a compiler, or if ``x`` is no plain tensor on the CPU."""
    library = compiled_passes()
    if library is None or type(x) is not Tensor or x.device.type != "cpu":
        return None
    x = x.float()
    q = torch.empty_like(x, dtype=dtype)
    if q.stride() != x.stride():
        x = x.contiguous()
        q = torch.empty_like(x, dtype=dtype)
    getattr(library, name)(x.data_ptr(), q.data_ptr(), x.numel(), *qparams[:4])
    return q
