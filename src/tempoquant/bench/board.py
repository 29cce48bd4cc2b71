"""What a bench shows while it runs: how many runs are queued, running and done, what each does, and the time left."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Protocol

from rich.console import Console, Group
from rich.live import Live
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn
from rich.progress import Progress as Bar
from rich.text import Text

from tempoquant.progress import Advance, Progress


class Board(Progress, Protocol):
    """Where a bench tells how far it is."""

    def planned(self, runs: int, skipped: int) -> None:
        """So many runs are to be done; ``skipped`` were done before."""
        ...

    def began(self, name: str) -> None:
        """A run begins."""
        ...

    def ended(self, name: str, outcome: str) -> None:
        """A run is done, or failed; ``outcome`` says how in a few words."""
        ...


class SilentBoard:
    """Shows nothing."""

    def planned(self, runs: int, skipped: int) -> None:
        """See :class:`Board`."""

    def began(self, name: str) -> None:
        """See :class:`Board`."""

    def ended(self, name: str, outcome: str) -> None:
        """See :class:`Board`."""

    @contextmanager
    def stage(self, name: str, total: int) -> Iterator[Advance]:
        """See :class:`tempoquant.progress.Progress`."""
        yield lambda parts: None


class RichBoard:
    """A live board on a terminal; elsewhere one line a finished run."""

    def __init__(self, console: Console | None = None, clock: Callable[[], float] = time.monotonic):
        self.console, self.clock = console or Console(stderr=True), clock
        self.total = self.done = self.skipped = 0
        self.start = clock()
        self.running: dict[str, float] = {}
        self.bar = Bar(TextColumn("  {task.description:<34}"), BarColumn(), MofNCompleteColumn())
        self.live = Live(console=self.console, get_renderable=self.render, refresh_per_second=2, transient=True)

    def __enter__(self) -> "RichBoard":
        if self.console.is_terminal:
            self.live.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.live.stop()

    def planned(self, runs: int, skipped: int) -> None:
        """Start the count of runs, and the estimate of the time left."""
        self.total, self.skipped, self.start = runs, skipped, self.clock()

    def began(self, name: str) -> None:
        """Show a run as running."""
        self.running[name] = self.clock()

    def ended(self, name: str, outcome: str) -> None:
        """Print a run's outcome and duration."""
        seconds = self.clock() - self.running.pop(name)
        self.done += 1
        self.console.print(f"{self.done}/{self.total} {name}: {outcome} ({_span(seconds)})", highlight=False)

    @contextmanager
    def stage(self, name: str, total: int) -> Iterator[Advance]:
        """See :class:`tempoquant.progress.Progress`."""
        task = self.bar.add_task(name, total=total)
        yield lambda parts: self.bar.advance(task, parts)
        self.bar.remove_task(task)

    def render(self) -> Group:
        """The board as it stands."""
        queued = self.total - self.done - len(self.running)
        before = f", {self.skipped} done before" if self.skipped else ""
        counts = f"{self.done} done, {len(self.running)} running, {queued} queued{before}   ETA {self.eta()}"
        lines = [Text(counts if self.total else "preparing")]
        lines += [Text(f"  {name}  {_span(self.clock() - began)}") for name, began in self.running.items()]
        return Group(*lines, self.bar)

    def eta(self) -> str:
        """The time left if the runs to come take as long as those that are done."""
        if not self.done:
            return "-"
        # Runs under way count as half done.
        half = len(self.running) / 2
        return _span((self.clock() - self.start) / (self.done + half) * (self.total - self.done - half))


def _span(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"
