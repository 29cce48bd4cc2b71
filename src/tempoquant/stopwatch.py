"""Seconds of work by stage: those that pass, and those that processors spend."""

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field


def cpu_seconds() -> float:
    """Seconds that processors have spent on this process, all its threads, and its children that have ended.

    Unlike seconds on the wall these hardly depend on what else a machine does.
    """
    ended = os.times()
    return time.process_time() + ended.children_user + ended.children_system


@dataclass
class Stopwatch:
    """Seconds by stage, rounded to milliseconds.

    Attributes:
        wall: seconds that passed. cpu: of processors, see :func:`cpu_seconds`.
    """

    wall: dict[str, float] = field(default_factory=dict)
    cpu: dict[str, float] = field(default_factory=dict)

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Time the block; nothing is noted if it fails."""
        start, spent = time.perf_counter(), cpu_seconds()
        yield
        self.wall[name] = round(time.perf_counter() - start, 3)
        self.cpu[name] = round(cpu_seconds() - spent, 3)
