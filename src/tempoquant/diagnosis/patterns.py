"""Selection of layers by patterns of their names."""

from collections.abc import Sequence
from fnmatch import fnmatchcase

from tempoquant.errors import InputError


def matching(names: Sequence[str], patterns: Sequence[str], what: str) -> list[str]:
    """The names that match any of the patterns, in their order; all names if there are no patterns.

    Args:
        names: of layers.
        patterns: as of ``fnmatch``, case-sensitive.
        what: describes the layers in the message: ``"layer that both models have"``.

    Raises:
        InputError: a pattern matches none of them.
    """
    for pattern in patterns:
        if not any(fnmatchcase(name, pattern) for name in names):
            first = names[0] if names else "none"
            raise InputError(f"layer pattern {pattern!r} matches no {what}; the first of them is {first!r}")
    return [name for name in names if not patterns or any(fnmatchcase(name, pattern) for pattern in patterns)]
