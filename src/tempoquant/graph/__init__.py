"""Reading a denoiser without knowing its class. A leaf."""

from tempoquant.graph.products import MATRIX_PRODUCTS
from tempoquant.graph.reader import read_denoiser
from tempoquant.graph.temporal import TemporalProgram
from tempoquant.graph.types import (
    AttentionProduct,
    Category,
    DenoiserGraph,
    LayerInfo,
    Probe,
    Source,
    TimeArgument,
    Unit,
)
from tempoquant.graph.verify import temporal_program

__all__ = [
    "MATRIX_PRODUCTS",
    "AttentionProduct",
    "Category",
    "DenoiserGraph",
    "LayerInfo",
    "Probe",
    "Source",
    "TemporalProgram",
    "TimeArgument",
    "Unit",
    "read_denoiser",
    "temporal_program",
]
