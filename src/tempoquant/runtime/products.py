"""Attention products in integers: both operands as signed bytes, sums in int32."""

from typing import Any

import torch
from torch import Tensor

from tempoquant.intervals import Numbers
from tempoquant.layers import QuantizedProduct, simulate_product
from tempoquant.runtime.bytes import MIDDLE, signed_bytes
from tempoquant.runtime.compiled import compiled_passes

MOST_TERMS = 2**15
"""Of a sum that int32 holds: with ``q - z = a + (128 - z)`` each term is four numbers of at most 2^14."""
WORTH = 2**21
"""Multiplications in an item from which integers are faster: each item is a call of its own."""


@torch.compiler.disable
def integer_product(product: QuantizedProduct, names: str, left: Tensor, right: Tensor) -> Tensor:
    """``left @ right`` with both operands quantized, the same bits as :func:`simulate_product`.

    Args:
        left, right: (..., M, K) and (..., K, N).
    """
    providers: list[Any] = [product.intervals[name] for name in names]
    a, b = (provider.numbers() for provider in providers)
    terms = left.shape[-1]
    alike = left.dim() >= 3 and left.shape[:-2] == right.shape[:-2] and left.device.type == right.device.type == "cpu"
    worth = left.shape[-2:].numel() * right.shape[-1] >= WORTH
    if a is None or b is None or not alike or not worth or terms >= MOST_TERMS:
        return simulate_product(product, names, left, right)
    x, y = (signed_bytes(v, n).flatten(0, -3) for v, n in ((left, a), (right, b)))
    acc = torch.empty((*x.shape[:2], y.shape[2]), dtype=torch.int32)
    for i in range(len(x)):
        torch._int_mm(x[i], y[i], out=acc[i])
    shift_x, shift_y = MIDDLE - int(a.zero), MIDDLE - int(b.zero)
    rows = x.sum(2, dtype=torch.int32).mul_(shift_y).add_(terms * shift_x * shift_y)
    columns = y.sum(1, dtype=torch.int32).mul_(shift_x)
    return _scaled(acc, rows, columns, a, b).view(*left.shape[:-1], right.shape[-1]).to(left.dtype)


def _scaled(acc: Tensor, rows: Tensor, columns: Tensor, a: Numbers, b: Numbers) -> Tensor:
    library = compiled_passes()
    if library is None:
        return (acc + rows[:, :, None] + columns[:, None]).float().mul_(a.s_out).mul_(b.s_out)
    out, rows, columns = torch.empty(acc.shape), rows.contiguous(), columns.contiguous()
    parts = (acc.data_ptr(), out.data_ptr(), rows.data_ptr(), columns.data_ptr())
    library.tempoquant_scaled(*parts, *acc.shape, a.s_out, b.s_out)
    return out
