"""From a row of the recorded time steps to a quantization interval."""

from tempoquant.intervals.clock import Clock, check_recorded
from tempoquant.intervals.conditions import Conditions
from tempoquant.intervals.constant import ConstantInterval
from tempoquant.intervals.dynamic import DynamicInterval
from tempoquant.intervals.gradients import fake_quantize
from tempoquant.intervals.groups import GroupInterval, group_of
from tempoquant.intervals.per_token import TokenInterval, token_count
from tempoquant.intervals.precision import KeepsPrecision
from tempoquant.intervals.provider import (
    Form,
    IntervalProvider,
    ObservedActivation,
    ScalarQParams,
    calibrated_provider,
    has_static_scale,
    register_provider,
)
from tempoquant.intervals.stepped import SteppedInterval
from tempoquant.intervals.table import TableInterval

__all__ = [
    "Clock",
    "Conditions",
    "ConstantInterval",
    "DynamicInterval",
    "Form",
    "GroupInterval",
    "IntervalProvider",
    "KeepsPrecision",
    "ObservedActivation",
    "ScalarQParams",
    "SteppedInterval",
    "TableInterval",
    "TokenInterval",
    "calibrated_provider",
    "check_recorded",
    "fake_quantize",
    "group_of",
    "has_static_scale",
    "register_provider",
    "token_count",
]
