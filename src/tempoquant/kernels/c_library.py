"""A C source as a loaded library: compiled for this processor, kept in a folder of the user's alone, verified."""

import ctypes
import hashlib
import os
import platform
import shutil
import signal
import subprocess
import tempfile
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, NamedTuple

from tempoquant.caches import user_cache

COMPILE_SECONDS = 120.0
"""After which a compiler is stopped."""
BUILDING = threading.Lock()


class BuildError(Exception):
    """The compiler is missing, failed, hung, or made something else."""


class CLibrary(NamedTuple):
    """A loaded library, or why there is none.

    Attributes:
        functions: of the library; None if there is a ``problem``.
        compiler: path and version of the compiler; None if there is none.
        path: of the library in the cache; None if it was compiled for this process alone.
        built: whether it was compiled now, not found in the cache.
        problem: why there is no library, in one line.
    """

    functions: ctypes.CDLL | None = None
    compiler: str | None = None
    path: Path | None = None
    built: bool = False
    problem: str | None = None


def load_c_library(
    source: Path, command: str, flags: Sequence[str], arguments: Mapping[str, Sequence[Any]]
) -> CLibrary:
    """The library of a C source: found in the user's cache, or compiled. Never raises; threads wait for one build.

    Args:
        source: the C file.
        command: name or path of the compiler.
        flags: of the compiler, beside source and output.
        arguments: argument types of every function that the library must have; none returns anything.
    """
    compiler = None
    with BUILDING:
        try:
            path = shutil.which(command)
            if path is None:
                raise BuildError(f"there is no C compiler {command!r}")
            compiler = f"{os.path.realpath(path)} ({_output([path, '--version'])})"
            identity = repr((source.read_text(), flags, compiler, platform.machine(), _processor()))
            prefix = f"{source.stem}-{_digest(identity.encode())}"
            with _private_folder() as (folder, kept):
                found = next((p for p in sorted(folder.glob(f"{prefix}-*.so")) if _is_whole(p, arguments)), None)
                built = found is None
                place = found or _compiled(path, source, flags, folder, prefix)
                return CLibrary(_loaded(place, arguments), compiler, place if kept else None, built)
        except (OSError, BuildError, AttributeError) as error:
            return CLibrary(compiler=compiler, problem=" ".join(str(error).split()))


def cache_folder() -> Path | None:
    """The folder that libraries are kept in, made if need be; None unless it is this user's alone (mode 0700)."""
    cache = user_cache()
    if cache is None:
        return None
    folder = cache / "compiled"
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        owners = {folder.stat().st_uid, folder.lstat().st_uid}
        private = owners == {os.geteuid()} and not folder.stat().st_mode & 0o077
        return folder if private and os.access(folder, os.R_OK | os.W_OK | os.X_OK) else None
    except OSError:
        return None


@contextmanager
def _private_folder() -> Iterator[tuple[Path, bool]]:
    """A folder that nobody else can write to, and whether it stays."""
    folder = cache_folder()
    if folder is not None:
        yield folder, True
        return
    with tempfile.TemporaryDirectory(prefix="tempoquant-") as temporary:
        yield Path(temporary), False


def _is_whole(path: Path, arguments: Mapping[str, Sequence[Any]]) -> bool:
    """Whether a kept library has the bytes that its name tells the digest of, and loads; a broken one is removed.

    Bytes come first: loading half a file kills the process.
    """
    try:
        if _digest(path.read_bytes()) == path.stem.rpartition("-")[2]:
            _loaded(path, arguments)
            return True
    except (OSError, AttributeError):
        pass
    path.unlink(missing_ok=True)
    return False


def _loaded(path: Path, arguments: Mapping[str, Sequence[Any]]) -> ctypes.CDLL:
    """Raises OSError where it is no library of this machine, AttributeError where it lacks a function."""
    library = ctypes.CDLL(str(path))
    for name, types in arguments.items():
        function = getattr(library, name)
        function.argtypes, function.restype = types, None
    return library


def _compiled(compiler: str, source: Path, flags: Sequence[str], folder: Path, prefix: str) -> Path:
    """A library compiled into ``folder``. Several processes may do so at once: each brings its own by a rename."""
    with tempfile.TemporaryDirectory(dir=folder) as work:
        output = Path(work) / "library.so"
        _output([compiler, *flags, "-o", str(output), str(source), "-lm"])
        place = folder / f"{prefix}-{_digest(output.read_bytes())}.so"
        os.replace(output, place)
    return place


def _output(command: Sequence[str]) -> str:
    """The first line that a command prints.

    Raises:
        BuildError: it fails, or takes too long; it is stopped then, with all that it started.
    """
    options: dict[str, Any] = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    with subprocess.Popen(command, **options, text=True, errors="replace", process_group=0) as process:
        try:
            printed, complaints = process.communicate(timeout=COMPILE_SECONDS)
        except BaseException as error:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            if isinstance(error, subprocess.TimeoutExpired):
                raise BuildError(f"{command[0]} did not end within {COMPILE_SECONDS:g} s") from None
            raise
    if process.returncode:
        raise BuildError(f"{command[0]} failed: {next(iter(complaints.splitlines()), 'no message')}")
    return next(iter(printed.splitlines()), "")


def _digest(data: bytes) -> str:
    return hashlib.blake2b(data, digest_size=16).hexdigest()


def _processor() -> str:
    """What tells processors apart for which "native" differs: a cache may be shared between machines."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    return next((line for line in lines if line.startswith(("flags", "Features"))), platform.processor())
