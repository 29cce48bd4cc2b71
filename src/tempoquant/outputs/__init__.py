"""Output folders: what may be replaced, and writing them so that nothing of anybody else's is ever lost."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tempoquant.outputs.check import check_new, check_output
from tempoquant.outputs.endings import (
    ARRAY,
    GRID,
    check_picture,
    check_report,
    check_samples_output,
    pictures_of,
)
from tempoquant.outputs.marker import LOCK, MARKER, Kind, delete_files, is_unfinished
from tempoquant.outputs.staging import Output, discard, followed, interrupted_replacement, locked, new_staging, sweep

__all__ = [
    "ARRAY",
    "GRID",
    "LOCK",
    "MARKER",
    "Kind",
    "Output",
    "check_new",
    "check_output",
    "check_picture",
    "check_report",
    "check_samples_output",
    "delete_files",
    "discard",
    "followed",
    "interrupted_replacement",
    "is_unfinished",
    "locked",
    "new_staging",
    "pictures_of",
    "writing",
]


@contextmanager
def writing(out: Path | str, kind: Kind, *, overwrite: bool = False) -> Iterator[Output]:
    """Lock an output folder for the length of a block, and yield the :class:`Output` that publishes it.

    Args:
        out: the folder.
        kind: what it is.
        overwrite: replace one of this kind that this package wrote.

    Raises:
        InputError: another run writes to it, or :func:`check_output` refuses it.
    """
    path = Path(out)
    check_output(path, overwrite, kind)
    place = followed(path)
    with locked(place):
        # What held the lock until now may have written it.
        check_output(path, overwrite, kind)
        sweep(place)
        yield Output(place, kind)
