"""Recipe fragments: overrides that keep some layers in higher precision."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tempoquant.documents import read_yaml
from tempoquant.errors import InputError
from tempoquant.recipe.basics import FLOAT_BITS
from tempoquant.recipe.recipe import Recipe


def keep_higher(widths: Mapping[str, tuple[int, int]]) -> tuple[dict[str, Any], ...]:
    """Policy entries that raise each layer to the next precision: 8 bits, else 16, else float.

    Args:
        widths: (weight bits, activation bits) of each layer now, by name; the smaller one decides.

    Returns:
        Entries of a recipe's ``policy``, one a layer, with ``match``, ``weight_bits`` and ``activation_bits``.
    """
    entries = []
    for layer, (weight, activation) in widths.items():
        least = next((bits for bits in (8, 16) if min(weight, activation) < bits), FLOAT_BITS)
        entries.append({"match": layer, "weight_bits": max(weight, least), "activation_bits": max(activation, least)})
    return tuple(entries)


def read_fragment(path: Path | str) -> list[dict[str, Any]]:
    """Read the policy overrides of a YAML file such as ``policy.yaml`` of a diagnosis.

    Args:
        path: a file with one entry, ``policy``: a list of overrides.

    Raises:
        InputError: the file cannot be read or holds anything else.
    """
    data = read_yaml(Path(path), f"policy file {str(path)!r}")
    if list(data) != ["policy"] or not isinstance(data["policy"], list):
        raise InputError(f"policy file {str(path)!r} must hold one entry, policy: a list of overrides")
    return data["policy"]


def with_overrides(recipe: Recipe, overrides: Sequence[dict[str, Any]]) -> Recipe:
    """A copy of ``recipe`` with ``overrides`` at the end of its policy, so that they win.

    Raises:
        InputError: an override is not valid.
    """
    plain = recipe.model_dump(mode="json")
    return Recipe.parse({**plain, "policy": [*plain["policy"], *overrides]})
