"""Writing an output folder: locked for the length of a run, staged beside its place, published by one rename."""

import ctypes
import errno
import hashlib
import os
import secrets
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from filelock import FileLock, Timeout

from tempoquant.errors import InputError
from tempoquant.files import storage_error, sync, sync_tree
from tempoquant.outputs.marker import (
    LOCK,
    STAGING,
    Kind,
    delete_files,
    delete_listed,
    foreign_files,
    read_marker,
    write_marker,
)

REPLACED = ".tempoquant-replaced-"
AT_FDCWD, RENAME_EXCHANGE = -100, 2


@dataclass(frozen=True)
class Output:
    """A folder to be written by the run that holds its lock.

    Attributes:
        path: where it will lie, symbolic links followed.
        kind: what it is.
    """

    path: Path
    kind: Kind

    @contextmanager
    def staging(self) -> Iterator[Path]:
        """Yield a new empty folder, which takes the place of the output when the block ends, or is removed if it fails.

        Raises:
            OSError: the disk is full; names the output.
        """
        folder = new_staging(self.path)
        try:
            write_marker(folder, self.kind, finished=False)
            yield folder
            write_marker(folder, self.kind, finished=True)
            sync_tree(folder)
            publish(folder, self.path)
        except BaseException as error:
            full = storage_error(error, self.path)
            discard(folder)
            if full is not None and not (isinstance(error, OSError) and error.filename):
                raise full from error
            raise


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Hold the lock of an output for the length of a block; it goes with the process that holds it.

    Raises:
        InputError: another run holds it.
    """
    lock = FileLock(path.with_name(f"{LOCK}{_key(path)}"), blocking=False)
    try:
        lock.acquire()
    except Timeout:
        raise InputError(f"another run is writing to {path}: wait for it, or choose another folder") from None
    try:
        yield
    finally:
        # While it is held: who waits for the removed file sees that, and makes a new one.
        with suppress(OSError):
            os.unlink(lock.lock_file)
        lock.release()


def publish(folder: Path, out: Path) -> None:
    """Move a finished folder to its place in one step; what lay there, all of it listed by its marker, is deleted.

    A process killed at any moment leaves the old folder or the new one under the name ``out``. Where the system cannot
    exchange two names, a moment between two renames is left without either: :func:`interrupted_replacement` then says
    how to go on.
    """
    if not out.exists():
        os.replace(folder, out)
        sync(out.parent)
        return
    old = folder
    if not exchange(folder, out):
        old = out.with_name(f"{REPLACED}{_key(out)}-{secrets.token_hex(4)}")
        os.rename(out, old)
        os.rename(folder, out)
    sync(out.parent)
    if not delete_listed(old):
        kept = out.with_name(f"{out.name}.kept-{secrets.token_hex(2)}")
        os.rename(old, kept)
        warnings.warn(f"files were added to {out} while it was made anew: they are in {kept} now", stacklevel=2)


def exchange(a: Path, b: Path) -> bool:
    """Let two paths of one file system change places in one step; False where the system cannot.

    Raises:
        OSError: it can, and refuses these two.
    """
    renameat2 = getattr(ctypes.CDLL(None, use_errno=True), "renameat2", None) if sys.platform == "linux" else None
    if renameat2 is None:
        return False
    if renameat2(AT_FDCWD, os.fsencode(a), AT_FDCWD, os.fsencode(b), RENAME_EXCHANGE) == 0:
        return True
    number = ctypes.get_errno()
    if number in (errno.ENOSYS, errno.EINVAL):
        return False
    raise OSError(number, os.strerror(number), str(b))


def new_staging(out: Path) -> Path:
    """A new empty folder beside ``out`` that the next run deletes should this one be killed."""
    folder = out.with_name(f"{STAGING}{_key(out)}-{secrets.token_hex(4)}")
    folder.mkdir()
    return folder


def discard(folder: Path) -> None:
    """Delete a staging folder with all that is in it: nobody else knows its name."""
    with suppress(OSError):
        delete_files(folder, lambda path: True)
        folder.rmdir()


def sweep(out: Path) -> None:
    """Delete what killed runs left beside ``out``, whose lock is held and which is there, or was never written."""
    for prefix in (STAGING, REPLACED):
        for left in out.parent.glob(f"{prefix}{_key(out)}-*"):
            marker = read_marker(left)
            if prefix == STAGING and (marker is None or not marker["finished"]):
                discard(left)
            elif not any(foreign_files(left)):
                delete_listed(left)


def interrupted_replacement(out: Path) -> str | None:
    """What to do about a replacement of ``out`` that was killed between its two renames, in one line; else None."""
    place = followed(out)
    if os.path.lexists(place):
        return None
    for left in place.parent.glob(f"{STAGING}{_key(place)}-*"):
        marker = read_marker(left)
        if marker is not None and marker["finished"]:
            return f"{out} was about to be put in its place when its run was killed: `mv {left} {place}` finishes that"
    return None


def followed(out: Path) -> Path:
    """The absolute path of ``out``; where it is a symbolic link, of what that points to."""
    return out.resolve() if out.is_symlink() else out.absolute()


def _key(path: Path) -> str:
    """Names the output among its siblings, whatever characters and length its own name has."""
    return hashlib.blake2b(os.fsencode(path.name), digest_size=6).hexdigest()
