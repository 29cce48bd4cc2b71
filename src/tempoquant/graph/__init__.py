"""Reading a denoiser without knowing its class. A leaf."""

from tempoquant.graph.attention import MATRIX_PRODUCTS, attention_products
from tempoquant.graph.observe import observe_layers
from tempoquant.graph.reader import read_denoiser
from tempoquant.graph.temporal import TemporalProgram, temporal_program
from tempoquant.graph.types import AttentionProduct, Category, DenoiserGraph, LayerInfo, Probe, TimeArgument, Unit

__all__ = [
    "MATRIX_PRODUCTS",
    "AttentionProduct",
    "Category",
    "DenoiserGraph",
    "LayerInfo",
    "Probe",
    "TemporalProgram",
    "TimeArgument",
    "Unit",
    "attention_products",
    "observe_layers",
    "read_denoiser",
    "temporal_program",
]
