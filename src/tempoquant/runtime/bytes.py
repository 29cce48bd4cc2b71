"""Activations to bytes: in one pass where a C compiler is at hand, in five torch calls elsewhere; the same bytes."""

import ctypes
import hashlib
import os
import platform
import subprocess
import tempfile
from functools import cache
from importlib.resources import files
from pathlib import Path

import torch
from torch import Tensor

from tempoquant.intervals import Interval
from tempoquant.layers.simulation import quantized_input

FLAGS = ("-O3", "-march=native", "-fopenmp", "-fno-math-errno", "-shared", "-fPIC")
COMPILER = "TEMPOQUANT_CC"
"""Environment variable: the C compiler (default ``cc``); empty for none."""


def quantized_bytes(x: Tensor, interval: Interval) -> Tensor:
    """``clamp(round(x / s) + z, q_min, q_max)`` as uint8, laid out as ``x``; the interval's fields have shape ()."""
    made = _in_one_pass("tempoquant_bytes", x, interval, torch.uint8)
    if made is not None:
        return made
    # Bounds as numbers: with tensors torch takes ten times as long.
    low, high = float(interval.q_min), float(interval.q_max)
    return (x.float() / interval.s_in).round_().add_(interval.zero).clamp_(low, high).to(torch.uint8)


def centred_floats(x: Tensor, interval: Interval) -> Tensor:
    """:func:`~tempoquant.layers.simulation.quantized_input`, in one pass where it can be."""
    made = None if interval.s_in.dim() else _in_one_pass("tempoquant_centred", x, interval, torch.float32)
    return quantized_input(x, interval) if made is None else made


def _in_one_pass(name: str, x: Tensor, interval: Interval, dtype: torch.dtype) -> Tensor | None:
    """The result of a compiled pass over ``x``; None without a compiler, or away from the processor."""
    library = compiled_passes()
    if library is None or x.device.type != "cpu":
        return None
    x = x.float()
    q = torch.empty_like(x, dtype=dtype)
    if q.stride() != x.stride():
        x = x.contiguous()
        q = torch.empty_like(x, dtype=dtype)
    scale, zero, low, high = (float(field) for field in (interval.s_in, interval.zero, interval.q_min, interval.q_max))
    getattr(library, name)(x.data_ptr(), q.data_ptr(), x.numel(), scale, zero, low, high)
    return q


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
    for name in ("tempoquant_bytes", "tempoquant_centred"):
        function = getattr(library, name)
        function.argtypes = [ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int64, *[ctypes.c_float] * 4]
        function.restype = None
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
