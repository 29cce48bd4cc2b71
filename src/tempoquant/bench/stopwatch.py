"""Seconds of work that several runs share: noted beside its folder, so that every run's total is what it would need."""

import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tempoquant.files import write_whole

Seconds = dict[str, float | None]
"""By stage; None where the process that did the work died before it could say."""

WEIGHT_STAGES = ("temporal features", "units")
"""The stages of a job whose result the folder of finished weights keeps."""


def noted(folder: Path) -> Seconds | None:
    """The seconds that making ``folder`` took; None if nobody finished it."""
    path = _note(folder)
    return json.loads(path.read_text()) if path.exists() else None


def note(folder: Path, seconds: Seconds) -> None:
    """Keep the seconds that making ``folder`` took."""
    write_whole(_note(folder), json.dumps(seconds))


@contextmanager
def timing(folder: Path, stage: str) -> Iterator[None]:
    """Note how long the block takes to make ``folder``, unless that is known."""
    begun, start = folder.exists(), time.perf_counter()
    yield
    if noted(folder) is None:
        note(folder, {stage: None if begun else round(time.perf_counter() - start, 3)})


def run_seconds(own: Seconds, recording: Path, units: Path, units_begun: bool) -> Seconds:
    """A run's seconds by stage: its own, but those of shared work as they were noted when it was done."""
    weights = {stage: own[stage] for stage in WEIGHT_STAGES if stage in own}
    if noted(units) is None:
        note(units, dict.fromkeys(weights) if units_begun else weights)
    return {**own, **(noted(recording) or {"record": None}), **(noted(units) or {})}


def _note(folder: Path) -> Path:
    return folder.with_name(f"{folder.name}.seconds.json")
