"""From a row of the recorded time steps to a quantization interval."""

from tempoquant.intervals.clock import Clock
from tempoquant.intervals.interval import ConstantInterval, Interval, IntervalProvider, TableInterval
from tempoquant.intervals.stepped import SteppedInterval

__all__ = ["Clock", "ConstantInterval", "Interval", "IntervalProvider", "SteppedInterval", "TableInterval"]
