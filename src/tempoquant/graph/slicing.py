"""Slicing traces: what the temporal layers' inputs depend on, and which arguments scale with the batch."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from tempoquant.errors import TempoquantError
from tempoquant.graph.nested import find_kind
from tempoquant.graph.trace import Op, Ref


@dataclass(frozen=True)
class Rows:
    """An integer argument that is so many times the number of rows, as in ``emb.view(batch, -1)``."""

    multiple: int


def needed_ops(ops: Sequence[Op]) -> list[Op]:
    """The layer calls, and the operations that their inputs depend on, in order."""
    needed: set[int] = set()
    kept = []
    for op in reversed(ops):
        if op.layer or needed & set(op.outputs):
            kept.append(op)
            needed |= set(numbers_in(op))
    return kept[::-1]


def outside_values(ops: Sequence[Op]) -> list[int]:
    """Numbers of the values that ``ops`` use and do not produce."""
    produced = {number for op in ops for number in op.outputs}
    used = dict.fromkeys(number for op in ops for number in numbers_in(op))
    return [number for number in used if number not in produced]


def numbers_in(op: Op) -> list[int]:
    """Numbers of the values that ``op`` takes."""
    return [ref.number for ref in find_kind((op.args, op.kwargs), Ref)]


def same_path(a: Sequence[Op], b: Sequence[Op]) -> bool:
    """Whether two traces record the same calls, so that their numbers mean the same values."""
    return [(op.func, op.layer, op.outputs) for op in a] == [(op.func, op.layer, op.outputs) for op in b]


def batched(one: Sequence[Op], two: Sequence[Op]) -> list[Op]:
    """``one``, traced at batch 1, with every integer that doubles in ``two``, traced at batch 2, as :class:`Rows`.

    Raises:
        TempoquantError: an argument depends on the batch in another way.
    """
    merged = []
    for a, b in zip(one, two, strict=True):
        args, kwargs = _merge(a.args, b.args, a), _merge(a.kwargs, b.kwargs, a)
        merged.append(replace(a, args=args, kwargs=kwargs))
    return merged


def _merge(a: Any, b: Any, op: Op) -> Any:
    if isinstance(a, Ref | bool) or type(a) is not type(b):
        return a
    if isinstance(a, list | tuple) and len(a) == len(b):
        merged = (_merge(x, y, op) for x, y in zip(a, b, strict=True))
        return list(merged) if isinstance(a, list) else tuple(merged)
    if isinstance(a, dict) and a.keys() == b.keys():
        return {k: _merge(a[k], b[k], op) for k in a}
    if isinstance(a, slice):
        return slice(*(_merge(getattr(a, k), getattr(b, k), op) for k in ("start", "stop", "step")))
    if isinstance(a, int) and a != b:
        if b == 2 * a:
            return Rows(a)
        raise TempoquantError(
            f"{op.label} cannot be run for several time steps at once: it takes {a} at batch 1, {b} at 2"
        )
    return a


def split_block(ops: Iterable[Op], layers: Sequence[str]) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Layers whose output reaches another layer's input (h), and those whose output does not (every g_i)."""
    sources: dict[int, set[str]] = {}
    feeding: set[str] = set()
    for op in ops:
        upstream: set[str] = set().union(*(sources.get(number, set()) for number in numbers_in(op)))
        if op.layer:
            feeding |= upstream
        for number in op.outputs:
            sources[number] = {op.layer} if op.layer else upstream
    return tuple(n for n in layers if n in feeding), tuple(n for n in layers if n not in feeding)
