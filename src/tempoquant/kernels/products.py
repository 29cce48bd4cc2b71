"""Attention products of int8 operands, accumulated in int32, of torch's ``_int_mm``."""

from typing import Any

import torch
from torch import Tensor

from tempoquant.intervals import ScalarQParams
from tempoquant.kernels.compiled import compiled_passes
from tempoquant.kernels.quantize import OFFSET, quantize_to_int8, softmax_to_int8
from tempoquant.layers import OPERANDS, QuantizedProduct, attention_in_pieces, simulate_product

MOST_TERMS = 2**15
"""Terms of a sum that int32 holds: with ``q - z = a + (128 - z)`` each is four products of at most 2^14."""
FEWEST_PRODUCTS = 2**21
"""Products of numbers in one item of a batch from which int8 is faster: each item is a call of its own."""
SCORES_AT_ONCE = 2**20
"""Scores that attention holds at a time: three passes go over them, which should find them in the CPU's cache."""


@torch.compiler.disable
def integer_product(product: QuantizedProduct, names: str, left: Tensor, right: Tensor) -> Tensor:
    """``left @ right`` with both operands quantized, the same bits as :func:`simulate_product`.

    Args:
        product: its operands' parameters.
        names: of the operands, such as "qk".
        left: (..., M, K), of any float dtype.
        right: (..., K, N).

    Returns:
        (..., M, N) in left's dtype.
    """
    qparams = _scalar_qparams(product, names)
    if qparams is None or not _is_worth_it(left, right):
        return simulate_product(product, names, left, right)
    a, b = qparams
    x, y = (quantize_to_int8(v, n).flatten(0, -3) for v, n in ((left, a), (right, b)))
    acc = torch.empty((*x.shape[:2], y.shape[2]), dtype=torch.int32)
    for i in range(len(x)):
        torch._int_mm(x[i], y[i], out=acc[i])
    rows, columns = _zero_terms_of_rows(x.sum(2, dtype=torch.int32), left.shape[-1], a, b), _zero_terms_of_columns(y, a)
    return _scaled(acc, rows, columns, a, b).view(*left.shape[:-1], right.shape[-1]).to(left.dtype)


@torch.compiler.disable
def integer_attention(product: QuantizedProduct, query: Tensor, key: Tensor, value: Tensor, scale: float) -> Tensor:
    """``softmax(q k^T * scale) v``: each operand is quantized once, the scores of some queries are held at a time.

    The products are :func:`simulate_product`'s bits; the softmax between them adds up in another order.

    Args:
        product: its operands' parameters.
        query: (..., T, D) float32.
        key: (..., S, D) float32.
        value: (..., S, D') float32.
        scale: of the scores.

    Returns:
        (..., T, D'), float32.
    """
    qparams, turned = _scalar_qparams(product, OPERANDS), key.transpose(-2, -1)
    same_batch = value.shape[:-1] == key.shape[:-1] and key.shape[-2] < MOST_TERMS
    if qparams is None or not same_batch or not _is_worth_it(query, turned):
        return attention_in_pieces(product, query, key, value, scale)
    q, k, v, p = qparams
    queries, keys, values = (
        quantize_to_int8(x, n).flatten(0, -3).contiguous() for x, n in ((query, q), (key, k), (value, v))
    )
    (items, count, width), terms = queries.shape, keys.shape[1]
    rows = _zero_terms_of_rows(queries.sum(2, dtype=torch.int32), width, q, k)
    columns = _zero_terms_of_columns(keys.transpose(1, 2), q)
    totals = torch.empty(items, count, dtype=torch.int32)
    out = torch.empty(items, count, values.shape[2], dtype=torch.int32)
    piece = max(1, min(count, SCORES_AT_ONCE // terms))
    scores = torch.empty(piece, terms, dtype=torch.int32)
    for item in range(items):
        for start in range(0, count, piece):
            part = slice(start, min(start + piece, count))
            acc = torch._int_mm(queries[item, part], keys[item].t(), out=scores[: part.stop - start])
            zero_terms = rows[item, part], columns[item]
            probabilities, totals[item, part] = softmax_to_int8(
                acc, zero_terms, (q.output_scale, k.output_scale, scale), p
            )
            torch._int_mm(probabilities, values[item], out=out[item, part])
    attended = _scaled(out, _zero_terms_of_rows(totals, terms, p, v), _zero_terms_of_columns(values, p), p, v)
    return attended.view(*query.shape[:-1], value.shape[-1])


def _scalar_qparams(product: QuantizedProduct, names: Any) -> list[ScalarQParams] | None:
    """The current parameters of operands; None if one has more than a single scale now."""
    providers: list[Any] = [product.intervals[name] for name in names]
    qparams = [provider.scalar_qparams() for provider in providers]
    return None if None in qparams else qparams


def _is_worth_it(left: Tensor, right: Tensor) -> bool:
    """Whether ``left @ right``, (..., M, K) and (..., K, N), fits int32 sums, and is faster so."""
    same_batch = (
        left.dim() >= 3 and left.shape[:-2] == right.shape[:-2] and left.device.type == right.device.type == "cpu"
    )
    return same_batch and left.shape[-1] < MOST_TERMS and left.shape[-2:].numel() * right.shape[-1] >= FEWEST_PRODUCTS


def _zero_terms_of_rows(sums: Tensor, terms: int, a: ScalarQParams, b: ScalarQParams) -> Tensor:
    """What zero points add to each row of an int8 product, given the sums of the left operand's rows, (B, M)."""
    shift_a, shift_b = OFFSET - int(a.zero_point), OFFSET - int(b.zero_point)
    return sums * shift_b + terms * shift_a * shift_b


def _zero_terms_of_columns(right: Tensor, a: ScalarQParams) -> Tensor:
    """What the left operand's zero point adds to each column of an int8 product, (B, N), for a right (B, K, N)."""
    return right.sum(1, dtype=torch.int32).mul_(OFFSET - int(a.zero_point))


def _scaled(acc: Tensor, rows: Tensor, columns: Tensor, a: ScalarQParams, b: ScalarQParams) -> Tensor:
    """``(acc + zero terms) * s_a * s_b`` in float32, of acc's shape (B, M, N)."""
    library = compiled_passes()
    if library is None:
        return (acc + rows[:, :, None] + columns[:, None]).float().mul_(a.output_scale).mul_(b.output_scale)
    out, rows, columns = torch.empty(acc.shape), rows.contiguous(), columns.contiguous()
    parts = (acc.data_ptr(), out.data_ptr(), rows.data_ptr(), columns.data_ptr())
    library.tempoquant_scaled(*parts, *acc.shape, a.output_scale, b.output_scale)
    return out
