"""From a row of the recorded time steps to a quantization interval."""

from tempoquant.intervals.clock import Clock, check_recorded
from tempoquant.intervals.conditions import Conditions, named_arguments, nested_arguments, tensor_arguments
from tempoquant.intervals.generator import ARCHITECTURES, GeneratedInterval, Generators
from tempoquant.intervals.gradients import fake_quantize
from tempoquant.intervals.groups import GroupInterval, group_of
from tempoquant.intervals.interval import ConstantInterval, Interval, IntervalProvider, Numbers, TableInterval
from tempoquant.intervals.kept import KeptNetworks, keep_in, keep_step_sizes, kept_networks
from tempoquant.intervals.precision import KeepsPrecision
from tempoquant.intervals.stepped import SteppedInterval
from tempoquant.intervals.temporal_table import TemporalTable, has_tables

__all__ = [
    "ARCHITECTURES",
    "Clock",
    "Conditions",
    "ConstantInterval",
    "GeneratedInterval",
    "Generators",
    "GroupInterval",
    "Interval",
    "IntervalProvider",
    "KeepsPrecision",
    "KeptNetworks",
    "Numbers",
    "SteppedInterval",
    "TableInterval",
    "TemporalTable",
    "check_recorded",
    "fake_quantize",
    "group_of",
    "has_tables",
    "keep_in",
    "keep_step_sizes",
    "kept_networks",
    "named_arguments",
    "nested_arguments",
    "tensor_arguments",
]
