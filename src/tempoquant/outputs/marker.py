"""The marker file of an output folder: which of the files inside this package wrote, and may therefore replace."""

import json
import os
from collections.abc import Callable, Iterator
from enum import StrEnum
from pathlib import Path
from typing import Any

from tempoquant.documents import read_json
from tempoquant.errors import FormatError
from tempoquant.files import TEMPORARY, write_whole

MARKER = ".tempoquant-output.json"
FORMAT_VERSION = 1
STAGING, LOCK = ".tempoquant-staging-", ".tempoquant-lock-"
"""What names of folders that are being written, and of locks, begin with."""


class Kind(StrEnum):
    """What an output folder is; one is replaced by one of its kind alone."""

    QUANTIZED = "quantized folder"
    EXPORTED = "exported folder"
    DIAGNOSIS = "diagnosis"
    IMAGES = "folder of images"
    PICTURES = "folder of a report's pictures"
    DEMONSTRATION = "demonstration"
    TRAINED = "trained pipeline"


def write_marker(folder: Path, kind: Kind, *, finished: bool) -> None:
    """Write the marker of an output: its kind, and the files that it consists of.

    Args:
        kind: what the output is.
        finished: whether everything is written; until then no files are listed, and the folder does not load.
    """
    files = sorted(_relative_files(folder)) if finished else []
    entries = {"format_version": FORMAT_VERSION, "kind": kind.value, "finished": finished, "files": files}
    write_whole(folder / MARKER, json.dumps(entries, indent=1) + "\n")


def read_marker(folder: Path) -> dict[str, Any] | None:
    """The marker of ``folder``; None where there is none that this package wrote."""
    path = folder / MARKER
    try:
        entries = {} if path.is_symlink() else read_json(path)
    except FormatError:
        return None
    files = entries.get("files")
    if not isinstance(files, list) or not all(isinstance(name, str) for name in files):
        return None
    return entries if isinstance(entries.get("kind"), str) and isinstance(entries.get("finished"), bool) else None


def is_unfinished(folder: Path) -> bool:
    """Whether ``folder`` is an output whose writing was interrupted."""
    marker = read_marker(folder)
    return marker is not None and not marker["finished"]


def foreign_files(folder: Path) -> Iterator[str]:
    """Names, relative to ``folder``, of all files inside that no marker lists: somebody else's.

    Outputs inside of an output have markers of their own. Without a marker every file is somebody else's.
    """
    marker = read_marker(folder)
    yield from _foreign(folder, folder, set() if marker is None else set(marker["files"]))


def delete_listed(folder: Path) -> bool:
    """Delete what the markers in ``folder`` list, and folders that are empty then.

    Returns:
        Whether nothing is left; other files stay where they are.
    """
    spared = {folder / name for name in foreign_files(folder)}
    delete_files(folder, lambda path: path not in spared and path != folder / MARKER)
    if list(folder.iterdir()) == [folder / MARKER]:
        # Last, so that a kill on the way leaves what the next run still knows as its own.
        (folder / MARKER).unlink()
    if not any(folder.iterdir()):
        folder.rmdir()
    return not folder.exists()


def delete_files(folder: Path, chosen: Callable[[Path], bool]) -> None:
    """Delete the chosen files and links below ``folder``, and folders inside that are empty then."""
    for root, folders, files in os.walk(folder, topdown=False):
        for path in (Path(root, name) for name in (*files, *folders)):
            if path.is_dir() and not path.is_symlink():
                if not any(path.iterdir()):
                    path.rmdir()
            elif chosen(path):
                path.unlink()


def _foreign(root: Path, folder: Path, listed: set[str]) -> Iterator[str]:
    for path in sorted(folder.iterdir()):
        name = path.relative_to(root).as_posix()
        if path.is_dir() and not path.is_symlink():
            inner = read_marker(path)
            if inner is None:
                yield from _foreign(root, path, listed)
            elif inner["finished"]:
                yield from (f"{name}/{foreign}" for foreign in foreign_files(path))
            # One that is unfinished lists nothing yet: it stood in a folder of ours, under a name of ours.
            elif not path.name.startswith(STAGING):
                yield name
        elif name not in listed and path.name != MARKER and not path.name.startswith((LOCK, TEMPORARY)):
            yield name


def _relative_files(folder: Path) -> Iterator[str]:
    for root, folders, files in os.walk(folder):
        links = [name for name in folders if Path(root, name).is_symlink()]
        for name in (*files, *links):
            path = Path(root, name).relative_to(folder)
            if path.name != MARKER:
                yield path.as_posix()
