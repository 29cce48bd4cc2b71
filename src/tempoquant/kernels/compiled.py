"""The passes of ``quantize.c`` over activations, compiled at first use if there is a C compiler."""

import ctypes
import os
import warnings
from functools import cache
from importlib.resources import files
from pathlib import Path

from tempoquant.kernels.c_library import CLibrary, load_c_library

PIECE = 64
"""Rows that a pass adds up at a time."""
FLAGS = ("-O3", "-march=native", "-fopenmp", "-fno-math-errno", "-shared", "-fPIC", f"-DPIECE={PIECE}")
COMPILER = "TEMPOQUANT_CC"
"""Environment variable: the C compiler (default ``cc``); empty for none."""
POINTER, COUNT, NUMBER = ctypes.c_void_p, ctypes.c_int64, ctypes.c_float
ARGUMENTS = {
    "tempoquant_quantize": [POINTER] * 2 + [COUNT] + [NUMBER] * 4,
    "tempoquant_quantize_centered": [POINTER] * 2 + [COUNT] + [NUMBER] * 4,
    "tempoquant_scaled": [POINTER] * 4 + [COUNT] * 3 + [NUMBER] * 2,
    "tempoquant_softmax_quantize": [POINTER] * 6 + [COUNT] * 3 + [NUMBER] * 7,
    "tempoquant_norm_silu_quantize": [POINTER] * 3 + [COUNT] * 4 + [POINTER] * 2 + [NUMBER] * 5,
}


@cache
def compiled_passes() -> ctypes.CDLL | None:
    """The passes of ``quantize.c``, compiled at first use and kept in the user's cache.

    Returns:
        The library; None without a compiler, with a warning unless the user wants none.
    """
    library = compiled_library()
    if library.problem is not None:
        warnings.warn(
            f"activations are quantized by torch alone, which is slower: {library.problem} (the environment variable "
            f"{COMPILER} names a C compiler; empty for none)",
            stacklevel=2,
        )
    return library.functions


def compiled_library() -> CLibrary:
    """The library of ``quantize.c``, or why it could not be built; neither if the user wants no compiler."""
    compiler = os.environ.get(COMPILER, "cc")
    source = Path(str(files("tempoquant"))) / "kernels" / "quantize.c"
    return load_c_library(source, compiler, FLAGS, ARGUMENTS) if compiler else CLibrary()
