"""From a row of the recorded time steps to a quantization interval."""

from tempoquant.intervals.clock import Clock
from tempoquant.intervals.interval import ConstantInterval, Interval, IntervalProvider, TableInterval

__all__ = ["Clock", "ConstantInterval", "Interval", "IntervalProvider", "TableInterval"]
