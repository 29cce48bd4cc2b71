"""Passes in C: compiled at first use where there is a compiler."""

import ctypes
import hashlib
import os
import platform
import subprocess
import tempfile
from functools import cache
from importlib.resources import files
from pathlib import Path

PIECE = 64
"""Rows that a pass adds up at a time."""
FLAGS = ("-O3", "-march=native", "-fopenmp", "-fno-math-errno", "-shared", "-fPIC", f"-DPIECE={PIECE}")
COMPILER = "TEMPOQUANT_CC"
"""Environment variable: the C compiler (default ``cc``); empty for none."""
POINTER, COUNT, NUMBER = ctypes.c_void_p, ctypes.c_int64, ctypes.c_float
ARGUMENTS = {
    "tempoquant_bytes": [POINTER] * 2 + [COUNT] + [NUMBER] * 4,
    "tempoquant_centred": [POINTER] * 2 + [COUNT] + [NUMBER] * 4,
    "tempoquant_scaled": [POINTER] * 4 + [COUNT] * 3 + [NUMBER] * 2,
    "tempoquant_softmax_bytes": [POINTER] * 6 + [COUNT] * 3 + [NUMBER] * 7,
    "tempoquant_norm_silu_bytes": [POINTER] * 3 + [COUNT] * 4 + [POINTER] * 2 + [NUMBER] * 5,
}


@cache
def compiled_passes() -> ctypes.CDLL | None:
    """The passes of ``quantize.c``, compiled at first use and kept in the user's cache; None without a compiler."""
    compiler = os.environ.get(COMPILER, "cc")
    if not compiler:
        return None
    source = Path(str(files("tempoquant"))) / "runtime" / "quantize.c"
    try:
        library = ctypes.CDLL(str(_built(compiler, source)))
    except (OSError, subprocess.SubprocessError):
        return None
    for name, arguments in ARGUMENTS.items():
        function = getattr(library, name)
        function.argtypes, function.restype = arguments, None
    return library


def _built(compiler: str, source: Path) -> Path:
    """The shared library of a source file: found in the cache, or compiled for this very processor."""
    home = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "tempoquant"
    key = repr((source.read_text(), FLAGS, compiler, platform.machine(), _processor()))
    path = home / f"{source.stem}-{hashlib.blake2b(key.encode(), digest_size=8).hexdigest()}.so"
    if not path.exists():
        home.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=home) as work:
            made = Path(work) / path.name
            subprocess.run([compiler, *FLAGS, "-o", str(made), str(source), "-lm"], check=True, capture_output=True)
            os.replace(made, path)
    return path


def _processor() -> str:
    """What tells processors apart for which "native" differs: a cache may be shared between machines."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    return next((line for line in lines if line.startswith(("flags", "Features"))), platform.processor())
