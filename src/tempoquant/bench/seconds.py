"""Seconds of work that several runs share: noted beside its folder, so that every run's total is what it would need."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Literal

from tempoquant.documents import read_json
from tempoquant.files import write_whole
from tempoquant.stopwatch import Stopwatch

Seconds = dict[str, float | None]
"""By stage; None where the process that did the work died before it could say."""

Kind = Literal["seconds", "cpu_seconds"]
"""Those that passed, or those of processors."""

WEIGHT_STAGES = ("temporal features", "units")
"""The stages of a job whose result the folder of finished weights keeps."""


def noted(folder: Path, kind: Kind = "seconds") -> Seconds | None:
    """The seconds that making ``folder`` took; None if nobody finished it."""
    path = _note(folder, kind)
    return read_json(path) if path.exists() else None


def note(folder: Path, seconds: Seconds, kind: Kind = "seconds") -> None:
    """Keep the seconds that making ``folder`` took."""
    write_whole(_note(folder, kind), json.dumps(seconds))


@contextmanager
def timing(folder: Path, stage: str) -> Iterator[None]:
    """Note how long the block takes to make ``folder``, unless that is known."""
    begun, watch = folder.exists(), Stopwatch()
    with watch.stage(stage):
        yield
    for kind, by_stage in _kinds(watch).items():
        if noted(folder, kind) is None:
            note(folder, {stage: None if begun else by_stage[stage]}, kind)


def run_seconds(watch: Stopwatch, recording: Path, units: Path, units_begun: bool) -> dict[str, Seconds]:
    """A run's seconds by stage: its own, but those of shared work as they were noted when it was done."""
    return {kind: _run(own, recording, units, units_begun, kind) for kind, own in _kinds(watch).items()}


def _run(own: dict[str, float], recording: Path, units: Path, units_begun: bool, kind: Kind) -> Seconds:
    weights: Seconds = {stage: own[stage] for stage in WEIGHT_STAGES if stage in own}
    if noted(units, kind) is None:
        note(units, dict.fromkeys(weights) if units_begun else weights, kind)
    return {**own, **(noted(recording, kind) or {"record": None}), **(noted(units, kind) or {})}


def _kinds(watch: Stopwatch) -> dict[Kind, dict[str, float]]:
    return {"seconds": watch.wall, "cpu_seconds": watch.cpu}


def _note(folder: Path, kind: Kind) -> Path:
    return folder.with_name(f"{folder.name}.{kind}.json")
