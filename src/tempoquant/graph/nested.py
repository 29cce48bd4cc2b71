"""Tensors inside nested arguments: torch functions take them in tuples, lists, dictionaries and slices."""

from collections.abc import Callable
from typing import Any

from torch import Tensor


def map_kind(value: Any, kind: type, f: Callable[[Any], Any]) -> Any:
    """``value`` with ``f`` applied to everything of type ``kind`` inside."""
    if isinstance(value, kind):
        return f(value)
    if isinstance(value, list):
        return [map_kind(v, kind, f) for v in value]
    if isinstance(value, tuple):
        return tuple(map_kind(v, kind, f) for v in value)
    if isinstance(value, dict):
        return {k: map_kind(v, kind, f) for k, v in value.items()}
    if isinstance(value, slice):
        return slice(*(map_kind(v, kind, f) for v in (value.start, value.stop, value.step)))
    return value


def find_kind(value: Any, kind: type) -> list[Any]:
    """Everything of type ``kind`` inside ``value``, in order."""
    matches: list[Any] = []
    map_kind(value, kind, matches.append)
    return matches


def tensors_in(value: Any) -> list[Tensor]:
    """All tensors inside nested tuples, lists, dictionaries and slices."""
    return find_kind(value, Tensor)


def first_argument(args: tuple, kwargs: dict[str, Any]) -> Tensor:
    """A layer call's input tensor, passed by position or as ``input=``."""
    return args[0] if args else kwargs["input"]
