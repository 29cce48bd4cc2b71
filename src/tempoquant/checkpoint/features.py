"""Cached temporal features on disk."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from tempoquant.checkpoint.vectors import PREFIX, Reader, joined
from tempoquant.errors import FormatError
from tempoquant.intervals import Clock, Conditions
from tempoquant.temporal import CachedLayer, DeadLayer, Replacement, TemporalTable, replacements

DTYPES = {"float16": torch.float16, "int8": torch.uint8}


def described_replacements(module: nn.Module) -> dict[str, dict[str, Any]]:
    """Entries of the replaced temporal layers, by name.

    Each has the ``storage`` of its cached features (None: a dead layer), their ``shape``, and the number of
    ``parameters`` that the layer had.
    """
    described = {}
    for name, part in replacements(module).items():
        table = part.table if isinstance(part, CachedLayer) else None
        described[name] = {
            "storage": None if table is None else table.storage,
            "shape": list(part.shape),
            "parameters": part.parameter_count,
        }
    return described


def feature_tensors(module: nn.Module) -> dict[str, Tensor]:
    """The tensors of cached features, by name; empty where none is cached."""
    tables = [part.table for part in replacements(module).values() if isinstance(part, CachedLayer)]
    if not tables:
        return {}
    return {
        f"{PREFIX}features": joined([table.values for table in tables], tables[0].values.dtype),
        f"{PREFIX}feature_scale": joined([table.scale for table in tables], torch.float32),
        f"{PREFIX}feature_zero": joined([table.zero for table in tables], torch.uint8),
    }


def condition_tensors(clock: Clock) -> dict[str, Tensor]:
    """The tensors of the conditions that a denoiser is frozen to, by name; empty without any."""
    conditions = {} if clock.conditions is None else clock.conditions.values
    return {f"{PREFIX}condition.{name}": value.contiguous() for name, value in conditions.items()}


def stored_conditions(names: Sequence[str], tensors: Mapping[str, Tensor]) -> Conditions | None:
    """The inverse of :func:`condition_tensors`.

    Raises:
        FormatError: a tensor is missing, or they are of different lengths.
    """
    if not names:
        return None
    missing = [name for name in names if f"{PREFIX}condition.{name}" not in tensors]
    if missing:
        raise FormatError(f"the folder's tensor {PREFIX + 'condition.' + missing[0]!r} is missing")
    values = {name: tensors[f"{PREFIX}condition.{name}"] for name in names}
    if len({len(value) for value in values.values()}) != 1:
        raise FormatError(f"the folder's conditions {', '.join(names)} are of different lengths")
    return Conditions(values)


def stored_replacements(
    entries: Mapping[str, Mapping[str, Any]], tensors: Mapping[str, Tensor], clock: Clock
) -> dict[str, Replacement]:
    """The inverse of :func:`described_replacements` and :func:`feature_tensors`.

    Raises:
        FormatError: a tensor is missing, or has not the type and length that these layers need.
    """
    reader, rows = Reader(tensors), clock.table_rows
    by_name: dict[str, Replacement] = {}
    for name, entry in entries.items():
        shape = tuple(entry["shape"])
        if entry["storage"] is None:
            by_name[name] = DeadLayer(shape, entry["parameters"])
            continue
        values = reader.take("features", rows * torch.Size(shape).numel()).view(rows, *shape)
        if values.dtype != DTYPES[entry["storage"]]:
            raise FormatError(f"the stored features of {name!r} are {values.dtype}, not {entry['storage']}")
        vectors = ("feature_scale", "feature_zero") if entry["storage"] == "int8" else ()
        table = TemporalTable(values, clock, *(reader.take(vector, rows) for vector in vectors))
        by_name[name] = CachedLayer(table, entry["parameters"])
    reader.finish()
    return by_name
