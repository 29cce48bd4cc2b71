"""Matrix products as torch functions: which ones count, and how each one's arguments make ``left @ right``."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from tempoquant.graph.nested import tensors_in

Product = Callable[..., Tensor]


def _plain(product: Product, *args: Any, **kwargs: Any) -> Tensor:
    return product(*_left_and_right(args, kwargs))


def _reversed(product: Product, *args: Any, **kwargs: Any) -> Tensor:
    right, left = _left_and_right(args, kwargs)
    return product(left, right)


def _added(product: Product, *args: Any, beta: float = 1, alpha: float = 1, **kwargs: Any) -> Tensor:
    bias = args[0] if args else kwargs.pop("input")
    scaled = product(*_left_and_right(args[1:], kwargs)) * alpha
    # torch defines beta = 0 to ignore the bias even where it is NaN: attention processors pass it uninitialised.
    return scaled if beta == 0 else scaled + beta * bias


def _einsum(product: Product, equation: str, *tensors: Any) -> Tensor:
    left, right = tensors_in(tensors)
    a, b, out = _letters(equation)
    shared = [x for x in a if x in b]
    batch, summed = [x for x in shared if x in out], [x for x in shared if x not in out]
    rows, columns = [x for x in a if x not in b], [x for x in b if x not in a]
    size = {**dict(zip(a, left.shape, strict=True)), **dict(zip(b, right.shape, strict=True))}
    count = [size[x] for x in batch]
    flat = [torch.Size([size[x] for x in group]).numel() for group in (rows, summed, columns)]
    left = left.permute([a.index(x) for x in (*batch, *rows, *summed)]).reshape(*count, flat[0], flat[1])
    right = right.permute([b.index(x) for x in (*batch, *summed, *columns)]).reshape(*count, flat[1], flat[2])
    order = [*batch, *rows, *columns]
    return product(left, right).reshape([size[x] for x in order]).permute([order.index(x) for x in out])


MATRIX_PRODUCTS: dict[Any, Callable[..., Tensor]] = {
    torch.matmul: _plain,
    torch.Tensor.matmul: _plain,
    torch.Tensor.__matmul__: _plain,
    torch.Tensor.__rmatmul__: _reversed,
    torch.bmm: _plain,
    torch.Tensor.bmm: _plain,
    torch.mm: _plain,
    torch.Tensor.mm: _plain,
    torch.linalg.matmul: _plain,
    torch.baddbmm: _added,
    torch.Tensor.baddbmm: _added,
    torch.einsum: _einsum,
}
"""Every matrix product that can be quantized, with how its arguments make one: ``f(product, *args) -> output``."""

UNREACHABLE_PRODUCTS = (
    torch.Tensor.baddbmm_,
    torch.addbmm,
    torch.Tensor.addbmm,
    torch.addmm,
    torch.Tensor.addmm,
    torch.tensordot,
    torch.inner,
    torch.Tensor.inner,
    torch.linalg.multi_dot,
)
"""Other functions that multiply matrices; they are only named."""


def operands(func: Any, args: tuple, kwargs: dict[str, Any]) -> tuple[Tensor, Tensor] | None:
    """Left and right operand of a matrix product, if it is one of two batches of matrices that can be quantized.

    Without a batch a product cannot tell items apart, whose time steps may differ. One into ``out`` is left alone.
    """
    adapter = MATRIX_PRODUCTS.get(func)
    if adapter is None or kwargs.get("out") is not None:
        return None
    if adapter is _einsum:
        tensors = tensors_in(args)
        left, right = tensors if len(tensors) == 2 and is_product(args[0]) else (torch.empty(0),) * 2
    elif adapter is _added:
        left, right = _left_and_right(args[1:], {k: v for k, v in kwargs.items() if k != "input"})
    else:
        left, right = _left_and_right(args, kwargs)
    if left.dim() < 3 or right.dim() < 3:
        return None
    return (right, left) if adapter is _reversed else (left, right)


def is_product(equation: Any) -> bool:
    """Whether an einsum's equation is one batched matrix product.

    >>> is_product("bid,bjd->bij"), is_product("bii,bij->bij"), is_product("b...,b...->b")
    (True, False, False)
    """
    if not isinstance(equation, str) or "->" not in equation or "." in equation:
        return False
    a, b, out = _letters(equation)
    distinct = all(len(set(part)) == len(part) for part in (a, b, out))
    return distinct and bool(set(a) & set(b) - set(out)) and set(a) ^ set(b) <= set(out) <= set(a) | set(b)


def _letters(equation: str) -> tuple[str, str, str]:
    inputs, out = equation.replace(" ", "").split("->")
    a, _, b = inputs.partition(",")
    return a, b, out


def _left_and_right(args: tuple, kwargs: dict[str, Any]) -> tuple[Tensor, Tensor]:
    named = {"input": 0, "batch1": 0, "other": 1, "mat2": 1, "batch2": 1}
    by_position = dict(enumerate(args)) | {named[k]: v for k, v in kwargs.items() if k in named}
    return by_position[0], by_position[1]
