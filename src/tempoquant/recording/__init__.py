"""The trajectory recorder, its store on disk, and the choice of steps."""

from tempoquant.recording.conditions import Conditions
from tempoquant.recording.recorder import record
from tempoquant.recording.step_choice import range_rows, reconstruction_rows
from tempoquant.recording.store import Store

__all__ = [
    "Conditions",
    "Store",
    "range_rows",
    "reconstruction_rows",
    "record",
]
