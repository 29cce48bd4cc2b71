"""A recipe applied to a denoiser: the bits of every layer, its splits, its coverage."""

from tempoquant.planning.coverage import Coverage, arithmetic_in_float, coverage_lines, coverage_of, warn_of_float
from tempoquant.planning.plan import LayerPlan, layer_roles, plan_layers, quantized_names, settled
from tempoquant.planning.reading import Reading, read

__all__ = [
    "Coverage",
    "LayerPlan",
    "Reading",
    "arithmetic_in_float",
    "coverage_lines",
    "coverage_of",
    "layer_roles",
    "plan_layers",
    "quantized_names",
    "read",
    "settled",
    "warn_of_float",
]
