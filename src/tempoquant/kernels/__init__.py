"""What computes quantized layers: simulation, and the integer operators of a processor."""

from tempoquant.kernels.c_library import cache_folder
from tempoquant.kernels.check import integers_are_exact, scales_apply_in_order
from tempoquant.kernels.compiled import COMPILER, compiled_library
from tempoquant.kernels.engine import ENGINES, use_engine
from tempoquant.kernels.norm_fusion import enable_norm_fusion
from tempoquant.kernels.onednn import padding_of, unsuitable
from tempoquant.kernels.packed import release_freed_memory
from tempoquant.kernels.passes import MIDDLE

__all__ = [
    "COMPILER",
    "ENGINES",
    "MIDDLE",
    "cache_folder",
    "compiled_library",
    "enable_norm_fusion",
    "integers_are_exact",
    "padding_of",
    "release_freed_memory",
    "scales_apply_in_order",
    "unsuitable",
    "use_engine",
]
