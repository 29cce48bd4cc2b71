"""Intervals that learn: networks of the time step, banks of quantizers, and the schemes (LSQ, PACT, NIPQ, DuQ, QIL)."""

from tempoquant.learned.baking import bake, can_bake
from tempoquant.learned.bank import Bank, LearnedInterval, fold_intervals
from tempoquant.learned.draws import Draws
from tempoquant.learned.dynamic import STATISTICS, RangeInterval, StatisticsInterval
from tempoquant.learned.kept import KeptNetworks, keep_in, kept_networks
from tempoquant.learned.networks import ARCHITECTURES, Architecture, IntervalNetworks
from tempoquant.learned.rules import scaled_gradient
from tempoquant.learned.schemes import SCHEMES, Reach, Scheme

__all__ = [
    "ARCHITECTURES",
    "SCHEMES",
    "STATISTICS",
    "Architecture",
    "Bank",
    "Draws",
    "IntervalNetworks",
    "KeptNetworks",
    "LearnedInterval",
    "RangeInterval",
    "Reach",
    "Scheme",
    "StatisticsInterval",
    "bake",
    "can_bake",
    "fold_intervals",
    "keep_in",
    "kept_networks",
    "scaled_gradient",
]
