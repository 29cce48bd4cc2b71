"""Reading a denoiser's structure by running it: layers, categories, units, attention products. A leaf."""

from tempoquant.graph.arithmetic import count_arithmetic
from tempoquant.graph.kinds import KINDS, StockKind, add_kind, kind_of, stock_kind_of
from tempoquant.graph.nested import find_kind, map_kind, tensors_in
from tempoquant.graph.probing import SHAPE_ERRORS, removing, sealed_around, smaller
from tempoquant.graph.products import MATRIX_PRODUCTS
from tempoquant.graph.reader import read_denoiser
from tempoquant.graph.slicing import Rows, batched, needed_ops, numbers_in, outside_values, same_path
from tempoquant.graph.trace import FunctionTrace, Op, Ref, trace_forward
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

__all__ = [
    "KINDS",
    "MATRIX_PRODUCTS",
    "SHAPE_ERRORS",
    "AttentionProduct",
    "Category",
    "DenoiserGraph",
    "FunctionTrace",
    "LayerInfo",
    "Op",
    "Probe",
    "Ref",
    "Rows",
    "Source",
    "StockKind",
    "TimeArgument",
    "Unit",
    "add_kind",
    "batched",
    "count_arithmetic",
    "find_kind",
    "kind_of",
    "map_kind",
    "needed_ops",
    "numbers_in",
    "outside_values",
    "read_denoiser",
    "removing",
    "same_path",
    "sealed_around",
    "smaller",
    "stock_kind_of",
    "tensors_in",
    "trace_forward",
]
