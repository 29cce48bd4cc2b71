"""Pure tensor functions: affine quantization, range search, rounding, packing. Nothing here knows a module."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tempoquant.numerics.affine import SMALLEST_SCALE, QParams, affine_qparams, dequantize, grid, quantize
    from tempoquant.numerics.hadamard import ROTATION_GROUPS, regular_hadamard, rotate
    from tempoquant.numerics.packing import pack, packed_size, unpack
    from tempoquant.numerics.rows import RowLayout
    from tempoquant.numerics.search import minmax_range, mse_range, percentile_range
    from tempoquant.numerics.spec import (
        GROUP_SIZES,
        NETWORKS,
        VALID_BITS,
        Constant,
        Generated,
        Granularity,
        PerChannel,
        PerGroup,
        PerStep,
        PerTensor,
        PerToken,
        QuantSpec,
        Registered,
        Schedule,
        StepGroups,
    )
    from tempoquant.numerics.weights import nearest, over_rows, weight_qparams
else:
    from tempoquant.imports import lazy_face

    __getattr__, __dir__ = lazy_face(__name__, __file__)

__all__ = [
    "GROUP_SIZES",
    "NETWORKS",
    "ROTATION_GROUPS",
    "SMALLEST_SCALE",
    "VALID_BITS",
    "Constant",
    "Generated",
    "Granularity",
    "PerChannel",
    "PerGroup",
    "PerStep",
    "PerTensor",
    "PerToken",
    "QParams",
    "QuantSpec",
    "Registered",
    "RowLayout",
    "Schedule",
    "StepGroups",
    "affine_qparams",
    "dequantize",
    "grid",
    "minmax_range",
    "mse_range",
    "nearest",
    "over_rows",
    "pack",
    "packed_size",
    "percentile_range",
    "quantize",
    "regular_hadamard",
    "rotate",
    "unpack",
    "weight_qparams",
]
