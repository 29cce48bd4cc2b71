"""Attention in integers: the operands of both products as signed bytes, sums in int32."""

from typing import Any

import torch
from torch import Tensor

from tempoquant.intervals import ScalarQParams
from tempoquant.kernels.compiled import compiled_passes
from tempoquant.kernels.quantize import MIDDLE, quantize_to_int8, softmax_to_int8
from tempoquant.layers import OPERANDS, QuantizedProduct, attention_in_pieces, simulate_product

MOST_TERMS = 2**15
"""Of a sum that int32 holds: with ``q - z = a + (128 - z)`` each term is four numbers of at most 2^14."""
WORTH = 2**21
"""Multiplications in an item from which integers are faster: each item is a call of its own."""
AT_ONCE = 2**20
"""Scores of attention that are held at a time: three passes go over them, in the processor's cache."""


@torch.compiler.disable
def integer_product(product: QuantizedProduct, names: str, left: Tensor, right: Tensor) -> Tensor:
    """``left @ right`` with both operands quantized, the same bits as :func:`simulate_product`.

    Args:
        left, right: (..., M, K) and (..., K, N).
    """
    found = _numbers(product, names)
    if found is None or not _suit(left, right):
        return simulate_product(product, names, left, right)
    a, b = found
    x, y = (quantize_to_int8(v, n).flatten(0, -3) for v, n in ((left, a), (right, b)))
    acc = torch.empty((*x.shape[:2], y.shape[2]), dtype=torch.int32)
    for i in range(len(x)):
        torch._int_mm(x[i], y[i], out=acc[i])
    rows, columns = _owed_to_rows(x.sum(2, dtype=torch.int32), left.shape[-1], a, b), _owed_to_columns(y, a)
    return _scaled(acc, rows, columns, a, b).view(*left.shape[:-1], right.shape[-1]).to(left.dtype)


@torch.compiler.disable
def integer_attention(product: QuantizedProduct, query: Tensor, key: Tensor, value: Tensor, scale: float) -> Tensor:
    """``softmax(q k^T * scale) v``: each operand becomes bytes once, some queries' scores are there at a time.

    The products are :func:`simulate_product`'s bits; the softmax between them is of another order of sums.

    Args:
        query, key, value: float32 of (..., T, D), (..., S, D) and (..., S, D').

    Returns:
        (..., T, D'), float32.
    """
    found, turned = _numbers(product, OPERANDS), key.transpose(-2, -1)
    alike = value.shape[:-1] == key.shape[:-1] and key.shape[-2] < MOST_TERMS
    if found is None or not alike or not _suit(query, turned):
        return attention_in_pieces(product, query, key, value, scale)
    q, k, v, p = found
    queries, keys, values = (
        quantize_to_int8(x, n).flatten(0, -3).contiguous() for x, n in ((query, q), (key, k), (value, v))
    )
    (items, count, width), terms = queries.shape, keys.shape[1]
    rows = _owed_to_rows(queries.sum(2, dtype=torch.int32), width, q, k)
    columns = _owed_to_columns(keys.transpose(1, 2), q)
    totals = torch.empty(items, count, dtype=torch.int32)
    out = torch.empty(items, count, values.shape[2], dtype=torch.int32)
    piece = max(1, min(count, AT_ONCE // terms))
    scores = torch.empty(piece, terms, dtype=torch.int32)
    for item in range(items):
        for start in range(0, count, piece):
            part = slice(start, min(start + piece, count))
            acc = torch._int_mm(queries[item, part], keys[item].t(), out=scores[: part.stop - start])
            owed = rows[item, part], columns[item]
            shares, totals[item, part] = softmax_to_int8(acc, owed, (q.output_scale, k.output_scale, scale), p)
            torch._int_mm(shares, values[item], out=out[item, part])
    made = _scaled(out, _owed_to_rows(totals, terms, p, v), _owed_to_columns(values, p), p, v)
    return made.view(*query.shape[:-1], value.shape[-1])


def _numbers(product: QuantizedProduct, names: Any) -> list[ScalarQParams] | None:
    """The current intervals of operands; None where time steps differ within the batch."""
    providers: list[Any] = [product.intervals[name] for name in names]
    found = [provider.scalar_qparams() for provider in providers]
    return None if None in found else found


def _suit(left: Tensor, right: Tensor) -> bool:
    """Whether ``left @ right`` can be computed in int32, and is faster so."""
    alike = left.dim() >= 3 and left.shape[:-2] == right.shape[:-2] and left.device.type == right.device.type == "cpu"
    return alike and left.shape[-1] < MOST_TERMS and left.shape[-2:].numel() * right.shape[-1] >= WORTH


def _owed_to_rows(sums: Tensor, terms: int, a: ScalarQParams, b: ScalarQParams) -> Tensor:
    """What zero points add to each row of a product of bytes, given the sums of the left operand's rows."""
    shift_a, shift_b = MIDDLE - int(a.zero_point), MIDDLE - int(b.zero_point)
    return sums * shift_b + terms * shift_a * shift_b


def _owed_to_columns(right: Tensor, a: ScalarQParams) -> Tensor:
    """What the left operand's zero point adds to each column of a product of bytes."""
    return right.sum(1, dtype=torch.int32).mul_(MIDDLE - int(a.zero_point))


def _scaled(acc: Tensor, rows: Tensor, columns: Tensor, a: ScalarQParams, b: ScalarQParams) -> Tensor:
    library = compiled_passes()
    if library is None:
        return (acc + rows[:, :, None] + columns[:, None]).float().mul_(a.output_scale).mul_(b.output_scale)
    out, rows, columns = torch.empty(acc.shape), rows.contiguous(), columns.contiguous()
    parts = (acc.data_ptr(), out.data_ptr(), rows.data_ptr(), columns.data_ptr())
    library.tempoquant_scaled(*parts, *acc.shape, a.output_scale, b.output_scale)
    return out
