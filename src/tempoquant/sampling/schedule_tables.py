"""Tables of one denoiser that follow the schedule of each run, of which several threads may make one at a time."""

import threading
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

from tempoquant.errors import InputError
from tempoquant.sharing import PerThread


class _Thread(PerThread):
    """How many runs a thread is in, one within the other."""

    runs: int = 0


class TablesBySchedule:
    """Makes the tables of a denoiser for a run's time steps: runs of one schedule share them, others wait their turn.

    Args:
        make: makes them for time steps, in any order, and returns the rows'.
    """

    def __init__(self, make: Callable[[Tensor], Tensor]):
        self._make = make
        self._changed = threading.Condition()
        self._waiting: deque[object] = deque()
        self._steps, self._runs = torch.empty(0), 0
        self._thread = _Thread()

    def __call__(self, timesteps: Tensor) -> Tensor:
        """Make the tables, once no run needs others; the rows' time steps."""
        with self.during(timesteps) as rows:
            return rows

    @contextmanager
    def during(self, timesteps: Tensor) -> Iterator[Tensor]:
        """Within the block tables are those of ``timesteps``; gives the rows' time steps.

        Raises:
            InputError: this thread is within a run that needs others.
        """
        steps = torch.unique(timesteps.float().cpu())
        with self._changed:
            self._wait(steps)
            if not self._runs:
                self._steps = self._make(steps)
            self._runs += 1
        self._thread.runs += 1
        try:
            yield self._steps
        finally:
            self._thread.runs -= 1
            with self._changed:
                self._runs -= 1
                self._changed.notify_all()

    def _wait(self, steps: Tensor) -> None:
        """Wait for all runs of other time steps, and for those that came before; but not for this thread's own."""
        if self._thread.runs:
            if not torch.equal(steps, self._steps):
                raise InputError(
                    f"{len(steps)} time steps need other tables than the {len(self._steps)} of the run that this one "
                    "is made in: draw after it"
                )
            return
        turn = object()
        self._waiting.append(turn)
        try:
            self._changed.wait_for(
                lambda: self._waiting[0] is turn and (not self._runs or torch.equal(steps, self._steps))
            )
        finally:
            self._waiting.remove(turn)
            self._changed.notify_all()
