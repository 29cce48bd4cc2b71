"""Validation errors of pydantic in one line that names the entry, its value and what is valid."""

from collections.abc import Sequence
from typing import Any, get_args

from pydantic import BaseModel, ValidationError

from tempoquant.errors import InputError, unknown


def refused(error: ValidationError, model: type[BaseModel], where: str) -> InputError:
    """The error to raise for a ValidationError, with its first entry that is not valid.

    Args:
        error: of pydantic.
        model: that was validated.
        where: names the data in the message: ``recipe``, a file's name.
    """
    # A misspelt entry says more than that the right one is missing.
    first = min(error.errors(), key=lambda problem: problem["type"] != "extra_forbidden")
    path = ".".join(str(part) for part in first["loc"])
    # Entries that do not go together are named by the message: their part's whole content would hide it.
    whole = first["type"] == "value_error" and isinstance(first["input"], dict)
    value = "" if first["type"] == "missing" or whole or not path else f" = {_short(first['input'])}"
    message = first["msg"].removeprefix("Value error, ")
    valid = _entries(model, first["loc"]) if first["type"] == "extra_forbidden" else []
    if valid:
        message = str(unknown("entry", str(first["loc"][-1]), valid))
    return InputError(f"{where}: {path}{value}{': ' if path else ''}{message}")


def _entries(model: type[BaseModel], loc: Sequence[int | str]) -> list[str]:
    """The entries that stand where ``loc`` points; none if it passes through anything but models."""
    for part in loc[:-1]:
        if isinstance(part, str):
            field = model.model_fields.get(part)
            inside = None if field is None else _model_in(field.annotation)
            if inside is None:
                return []
            model = inside
    return list(model.model_fields)


def _model_in(annotation: Any) -> type[BaseModel] | None:
    """The one model inside ``Model | None``, ``tuple[Model, ...]`` and the like."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    inner = [model for part in get_args(annotation) if (model := _model_in(part)) is not None]
    return inner[0] if len(inner) == 1 else None


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
