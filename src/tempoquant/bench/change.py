"""Changing an experiment without a file: single entries, and a part of its runs."""

from collections.abc import Collection, Sequence
from typing import Any

from tempoquant.bench.experiment import Experiment, merged, parse_bits
from tempoquant.documents import parse_yaml
from tempoquant.errors import InputError, unknown


def settings(texts: Sequence[str]) -> dict[str, Any]:
    """Entries of an experiment from texts such as ``evaluation.images=4``: a path of keys, and a YAML value.

    Raises:
        InputError: a text is no such pair, or two are of one entry.
    """
    entries: dict[str, Any] = {}
    for text in texts:
        path, equals, value = text.partition("=")
        if not equals or not all(path.strip().split(".")) or not value.strip():
            raise InputError(f"{text!r}: KEY=VALUE is needed, such as evaluation.images=4")
        try:
            entry: Any = parse_yaml(value)
        except ValueError:
            raise InputError(f"{text!r}: {value!r} is no YAML value") from None
        entries = with_entry(entries, path.strip(), entry, f"--set {text}")
    return entries


def with_entry(entries: dict[str, Any], path: str, value: Any, option: str) -> dict[str, Any]:
    """``entries`` with one more.

    Args:
        entries: of an experiment.
        path: keys of nested mappings, joined by dots.
        value: of the entry.
        option: that gives it, for messages.

    Raises:
        InputError: the entry is among ``entries`` already.
    """
    keys = path.split(".")
    if _has(entries, keys):
        raise InputError(f"{option}: {path} is given twice")
    for key in reversed(keys):
        value = {key: value}
    return merged(entries, value)


def _has(entries: Any, keys: Sequence[str]) -> bool:
    """Whether there is an entry at this path, or on the way to it one that is no mapping."""
    for key in keys:
        if not isinstance(entries, dict):
            return True
        if key not in entries:
            return False
        entries = entries[key]
    return True


def only(
    experiment: Experiment, methods: Collection[str] | None = None, bits: Collection[str] | None = None
) -> Experiment:
    """The experiment with those of its runs that are of these methods and bits; None stands for all.

    Methods are named as its tables do (``tfmq-dm released``), or by the method alone for all its runs.

    Raises:
        InputError: it has no run of a method, or at some bits.
    """
    for name in methods or ():
        if not any(name in (run.name, run.method) for run in experiment.runs):
            raise unknown("method of this experiment", name, [run.name for run in experiment.runs])
    for name in bits or ():
        parse_bits(name)
    kept = []
    for run in experiment.runs:
        widths = tuple(b for b in run.bits if bits is None or b in bits)
        if widths and (methods is None or {run.name, run.method} & {*methods}):
            kept.append(run.model_copy(update={"bits": widths}))
    if not kept:
        requested = ", ".join([*(methods or ()), *(bits or ())])
        raise InputError(f"{experiment.name} has no run of {requested}")
    return experiment.model_copy(update={"runs": tuple(kept)})
