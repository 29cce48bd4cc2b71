"""Backends that compute quantized layers and attention products: simulation, and oneDNN's int8 operators."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tempoquant.kernels.backends import Backend, Fusion, ProductKernels, Reason, Unsupported, backend, unsupported
    from tempoquant.kernels.c_library import cache_folder
    from tempoquant.kernels.check import integers_are_exact, scales_apply_in_order
    from tempoquant.kernels.compiled import COMPILER, compiled_library
    from tempoquant.kernels.engine import engine_report, use_engine
    from tempoquant.kernels.names import BACKENDS, ENGINES, backend_name
    from tempoquant.kernels.norm_fusion import enable_norm_fusion
    from tempoquant.kernels.onednn import padding_of
    from tempoquant.kernels.packed_weight import release_freed_memory
    from tempoquant.kernels.quantize import OFFSET
else:
    from tempoquant.imports import lazy_face

    __getattr__, __dir__ = lazy_face(__name__, __file__)

__all__ = [
    "BACKENDS",
    "COMPILER",
    "ENGINES",
    "OFFSET",
    "Backend",
    "Fusion",
    "ProductKernels",
    "Reason",
    "Unsupported",
    "backend",
    "backend_name",
    "cache_folder",
    "compiled_library",
    "enable_norm_fusion",
    "engine_report",
    "integers_are_exact",
    "padding_of",
    "release_freed_memory",
    "scales_apply_in_order",
    "unsupported",
    "use_engine",
]
