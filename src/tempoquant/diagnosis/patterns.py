"""Layers chosen by patterns of their names."""

from collections.abc import Sequence
from fnmatch import fnmatchcase

from tempoquant.errors import InputError


def matching(names: Sequence[str], patterns: Sequence[str], what: str) -> list[str]:
    """The names that a pattern matches, in their order; all without patterns.

    Args:
        what: which layers these are, for the message: ``"layer that both models have"``.

    Raises:
        InputError: a pattern matches none of them.
    """
    for pattern in patterns:
        if not any(fnmatchcase(name, pattern) for name in names):
            first = names[0] if names else "none"
            raise InputError(f"layer pattern {pattern!r} matches no {what}; the first is {first!r}")
    return [name for name in names if not patterns or any(fnmatchcase(name, pattern) for pattern in patterns)]
