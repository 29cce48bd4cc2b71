"""Writing single files: whole or not at all, with the mode that the umask says, and disk errors in one line."""

import errno
import os
import secrets
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

TEMPORARY = ".tempoquant-writing-"
"""What names of files begin with that are being written; a killed process may leave one."""
FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
LITTLE = 2**20
"""A disk with less than so many bytes counts as full where a writer fails without saying why."""


@contextmanager
def replacing(path: Path, needed: int | None = None) -> Iterator[Path]:
    """Yield a path to write to, which becomes ``path`` in one step when the block ends, and is removed if it fails.

    The yielded path has the suffix of ``path``; the content is on the disk before ``path`` names it. A symbolic link
    is followed, so that its target is replaced.

    Args:
        path: a file, which may exist.
        needed: bytes that are about to be written, for the message where the disk has too few.

    Raises:
        OSError: the disk is full or the file too large: names ``path`` and what was needed.
    """
    place = path.resolve() if path.is_symlink() else path
    temporary = place.with_name(f"{TEMPORARY}{secrets.token_hex(4)}{place.suffix}")
    try:
        # Some writers replace the file by one of mode 0600.
        temporary.touch()
        mode = temporary.stat().st_mode
        yield temporary
        temporary.chmod(mode)
        sync(temporary)
        os.replace(temporary, place)
    except BaseException as error:
        full = storage_error(error, path, needed)
        with suppress(OSError):
            temporary.unlink()
        if full is not None:
            raise full from error
        raise


def write_whole(path: Path, text: str) -> None:
    """Write ``text`` to ``path`` in one step, as UTF-8; see :func:`replacing`."""
    content = text.encode()
    with replacing(path, len(content)) as temporary:
        temporary.write_bytes(content)


def save_tensors(tensors: Mapping[str, "Tensor"], path: Path, metadata: dict[str, str] | None = None) -> None:
    """Write tensors as safetensors to ``path`` in one step; see :func:`replacing`."""
    from safetensors.torch import save_file

    plain = {name: tensor.contiguous() for name, tensor in tensors.items()}
    with replacing(path, sum(tensor.nbytes for tensor in plain.values())) as temporary:
        save_file(plain, temporary, metadata)


def sync(path: Path) -> None:
    """Put a file's content, or a folder's entries, on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        # Some file systems know no such call for folders.
        with suppress(OSError):
            os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sync_tree(folder: Path) -> None:
    """Put all files and folders below ``folder`` on the disk, and itself."""
    for root, _, files in os.walk(folder):
        for name in files:
            path = Path(root, name)
            if path.is_file() and not path.is_symlink():
                sync(path)
        sync(Path(root))


def storage_error(error: BaseException, path: Path, needed: int | None = None) -> OSError | None:
    """The error to raise where writing ``path`` failed because the disk is full or the file too large; else None.

    Writers in other languages raise errors of their own, so what the disk and the process's limits say decides.

    Args:
        needed: bytes that were to be written, if that is known.
    """
    if not isinstance(error, Exception):
        return None
    free, limit = _free_bytes(path), _size_limit()
    number = error.errno if isinstance(error, OSError) else None
    if number not in FULL:
        if isinstance(error, OSError | ValueError | TypeError):
            return None
        number = errno.ENOSPC if free < max(needed or 0, LITTLE) else None
        if limit is not None and limit < (needed or LITTLE):
            number = errno.EFBIG
    if number is None:
        return None
    asked = "" if needed is None else f"{needed / 1e6:.1f} MB were needed, "
    bound = f"files may have {limit / 1e6:.1f} MB" if number == errno.EFBIG and limit is not None else None
    return OSError(number, f"{os.strerror(number)} ({asked}{bound or f'{free / 1e6:.1f} MB are free'})", str(path))


def _free_bytes(path: Path) -> int:
    place = path.absolute().parent
    while not place.exists():
        place = place.parent
    return shutil.disk_usage(place).free


def _size_limit() -> int | None:
    """Bytes that a file of this process may have; None without such a limit."""
    try:
        import resource
    except ImportError:
        return None
    soft, _ = resource.getrlimit(resource.RLIMIT_FSIZE)
    return None if soft == resource.RLIM_INFINITY else soft
