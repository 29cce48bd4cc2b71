"""Pure tensor functions: affine quantization, range search, rounding, packing. Nothing here knows a module."""

from tempoquant.numerics.affine import QParams, affine_qparams, dequantize, grid, quantize
from tempoquant.numerics.packing import pack, packed_size, unpack
from tempoquant.numerics.search import minmax_range, mse_range, percentile_range

__all__ = [
    "QParams",
    "affine_qparams",
    "dequantize",
    "grid",
    "minmax_range",
    "mse_range",
    "pack",
    "packed_size",
    "percentile_range",
    "quantize",
    "unpack",
]
