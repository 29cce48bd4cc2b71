"""Progress of long work: library code opens stages, a front end shows them (or not)."""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Protocol

Advance = Callable[[int], None]


class Progress(Protocol):
    """Anything that can show stages of work."""

    def stage(self, name: str, total: int) -> AbstractContextManager[Advance]:
        """Open a stage of ``total`` equal parts; call the result with the number of parts that were finished."""
        ...


class Silent:
    """Shows nothing: the default of every library function."""

    @contextmanager
    def stage(self, name: str, total: int) -> Iterator[Advance]:
        """See :meth:`Progress.stage`."""
        yield lambda parts: None


class RichProgress:
    """A terminal progress bar with elapsed and remaining time, one line a stage."""

    def __init__(self) -> None:
        from rich.console import Console

        self.console = Console(stderr=True)

    @contextmanager
    def stage(self, name: str, total: int) -> Iterator[Advance]:
        """Show a bar for a stage; see :meth:`Progress.stage`."""
        from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
        from rich.progress import Progress as Bar

        columns = (TextColumn("{task.description:<34}"), BarColumn(), MofNCompleteColumn())
        columns = (*columns, TimeElapsedColumn(), TextColumn("ETA"), TimeRemainingColumn())  # type: ignore[assignment]
        with Bar(*columns, console=self.console) as bar:
            task = bar.add_task(name, total=total)
            yield lambda parts: bar.advance(task, parts)
