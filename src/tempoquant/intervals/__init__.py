"""From a row of the recorded time steps to a quantization interval."""

from tempoquant.intervals.clock import Clock
from tempoquant.intervals.interval import ConstantInterval, Interval, IntervalProvider, TableInterval
from tempoquant.intervals.stepped import SteppedInterval
from tempoquant.intervals.temporal_table import TemporalTable, has_tables

__all__ = [
    "Clock",
    "ConstantInterval",
    "Interval",
    "IntervalProvider",
    "SteppedInterval",
    "TableInterval",
    "TemporalTable",
    "has_tables",
]
