"""Intervals that learn: networks of the time step, banks of quantizers, and the schemes (LSQ, PACT, NIPQ, DuQ, QIL)."""

from tempoquant.learned.baking import bake, can_bake
from tempoquant.learned.bank import Bank, LearnedInterval
from tempoquant.learned.draws import Draws
from tempoquant.learned.dynamic import STATISTICS, RangeInterval, StatisticsInterval
from tempoquant.learned.kept import STEP_SIZES, KeptNetworks, keep_in, keep_step_sizes, kept_networks
from tempoquant.learned.networks import ARCHITECTURES, Architecture, GeneratedInterval, IntervalNetworks
from tempoquant.learned.rules import scaled_gradient
from tempoquant.learned.schemes import SCHEMES, Reach, Scheme

__all__ = [
    "ARCHITECTURES",
    "SCHEMES",
    "STATISTICS",
    "STEP_SIZES",
    "Architecture",
    "Bank",
    "Draws",
    "GeneratedInterval",
    "IntervalNetworks",
    "KeptNetworks",
    "LearnedInterval",
    "RangeInterval",
    "Reach",
    "Scheme",
    "StatisticsInterval",
    "bake",
    "can_bake",
    "keep_in",
    "keep_step_sizes",
    "kept_networks",
    "scaled_gradient",
]
