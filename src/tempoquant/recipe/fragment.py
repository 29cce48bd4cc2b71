"""Recipe fragments: overrides that keep some layers in higher precision."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tempoquant.documents import read_yaml
from tempoquant.errors import InputError
from tempoquant.recipe.basics import FLOAT_BITS
from tempoquant.recipe.recipe import Recipe


def keep_higher(widths: Mapping[str, tuple[int, int]]) -> tuple[dict[str, Any], ...]:
    """Policy entries that keep layers in higher precision: 8 bits, where both widths have them 16, else float.

    Args:
        widths: weight and activation bits that the layers have now.
    """
    entries = []
    for layer, (weight, activation) in widths.items():
        least = next((bits for bits in (8, 16) if min(weight, activation) < bits), FLOAT_BITS)
        entries.append({"match": layer, "weight_bits": max(weight, least), "activation_bits": max(activation, least)})
    return tuple(entries)


def read_fragment(path: Path | str) -> list[dict[str, Any]]:
    """The overrides of a file with one entry, ``policy``.

    Raises:
        InputError: the file cannot be read or holds anything else.
    """
    data = read_yaml(Path(path), f"policy file {str(path)!r}")
    if list(data) != ["policy"] or not isinstance(data["policy"], list):
        raise InputError(f"policy file {str(path)!r} must hold one entry, policy: a list of overrides")
    return data["policy"]


def with_overrides(recipe: Recipe, overrides: Sequence[dict[str, Any]]) -> Recipe:
    """``recipe`` with these overrides after its own, so that they win."""
    plain = recipe.model_dump(mode="json")
    return Recipe.parse({**plain, "policy": [*plain["policy"], *overrides]})
