"""From a row of the recorded time steps to a quantization interval."""

from tempoquant.intervals.clock import Clock, check_recorded
from tempoquant.intervals.conditions import Conditions
from tempoquant.intervals.gradients import fake_quantize
from tempoquant.intervals.groups import GroupInterval, group_of
from tempoquant.intervals.interval import ConstantInterval, IntervalProvider, ScalarQParams, TableInterval
from tempoquant.intervals.precision import KeepsPrecision
from tempoquant.intervals.stepped import SteppedInterval

__all__ = [
    "Clock",
    "Conditions",
    "ConstantInterval",
    "GroupInterval",
    "IntervalProvider",
    "KeepsPrecision",
    "ScalarQParams",
    "SteppedInterval",
    "TableInterval",
    "check_recorded",
    "fake_quantize",
    "group_of",
]
