"""Rounding weights so that outputs stay: temporal layers by themselves, other units in order of execution."""

from tempoquant.reconstruction.cache import UnitCache
from tempoquant.reconstruction.effort import Effort, effort
from tempoquant.reconstruction.lockstep import doubled
from tempoquant.reconstruction.steps import StepState, learn_activation_steps
from tempoquant.reconstruction.tiar import tiar
from tempoquant.reconstruction.tuning import Tuner
from tempoquant.reconstruction.weights import WeightState, reconstruct_units, round_nearest

__all__ = [
    "Effort",
    "StepState",
    "Tuner",
    "UnitCache",
    "WeightState",
    "doubled",
    "effort",
    "learn_activation_steps",
    "reconstruct_units",
    "round_nearest",
    "tiar",
]
