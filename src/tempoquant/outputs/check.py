"""Refusing an output before any work is done for it: what exists, is not ours, or cannot be written."""

import os
from itertools import islice
from pathlib import Path

from tempoquant.errors import InputError
from tempoquant.outputs.marker import Kind, foreign_files, read_marker
from tempoquant.outputs.staging import interrupted_replacement


def check_output(out: Path, overwrite: bool, kind: Kind) -> None:
    """Refuse a folder that cannot be written, or whose replacement would take something of somebody else's.

    Args:
        kind: what would be written there.

    Raises:
        InputError: ``out`` exists and ``overwrite`` is false; it is a file, an output of another kind, or holds a file
            that this package did not write there, which is named; its replacement was interrupted; or there is no
            folder to write it into.
    """
    _check_parent(out)
    left = interrupted_replacement(out)
    if left is not None:
        raise InputError(left)
    if not out.exists():
        return
    if not overwrite:
        raise InputError(f"{out} exists: choose another folder or pass --overwrite")
    if not out.is_dir():
        raise InputError(f"{out} is a file: choose another name for the folder to write")
    foreign = list(islice(foreign_files(out), 2))
    if foreign:
        others = " and others" if len(foreign) > 1 else ""
        raise InputError(f"{out} holds {foreign[0]}{others}, not written by tempoquant: move that, or choose another")
    marker = read_marker(out)
    if marker is not None and marker["kind"] != kind:
        raise InputError(f"{out} is another output ({marker['kind']}): choose another folder, or delete it yourself")


def check_new(path: Path, overwrite: bool) -> None:
    """Refuse a file that exists, or that cannot be written.

    Raises:
        InputError: ``path`` exists and ``overwrite`` is false, or it is no file, or it has no folder to be in.
    """
    _check_parent(path)
    if path.exists() and not overwrite:
        raise InputError(f"{path} exists: choose another name or pass --overwrite")
    if path.exists() and not path.is_file():
        raise InputError(f"{path} is {'a folder' if path.is_dir() else 'no file'}: a file's name is needed")


def _check_parent(path: Path) -> None:
    try:
        path.lstat()
    except (FileNotFoundError, NotADirectoryError):
        pass
    except (OSError, ValueError) as error:
        name = ascii(str(path)) if len(str(path)) <= 80 else f"{ascii(str(path))[:77]}..."
        raise InputError(f"{name} is no valid path: {getattr(error, 'strerror', None) or error}") from None
    # Of a link, what it points to is written.
    parent = (path.resolve() if path.is_symlink() else path.absolute()).parent
    if not parent.is_dir():
        raise InputError(f"{parent} is no folder to write {path.name} into")
    if not os.access(parent, os.W_OK | os.X_OK):
        raise InputError(f"{parent} is not writable: {path.name} cannot be written into it")
