"""What computes quantized layers: simulation, and the integer operators of a processor."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tempoquant.kernels.c_library import cache_folder
    from tempoquant.kernels.check import integers_are_exact, scales_apply_in_order
    from tempoquant.kernels.compiled import COMPILER, compiled_library
    from tempoquant.kernels.engine import use_engine
    from tempoquant.kernels.names import ENGINES
    from tempoquant.kernels.norm_fusion import enable_norm_fusion
    from tempoquant.kernels.onednn import padding_of, unsuitable
    from tempoquant.kernels.packed_weight import release_freed_memory
    from tempoquant.kernels.quantize import MIDDLE
else:
    from tempoquant.imports import lazy_face

    __getattr__, __dir__ = lazy_face(__name__, __file__)

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
