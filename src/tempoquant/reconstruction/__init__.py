"""Rounding weights so that outputs stay: temporal layers by themselves, other units in order of execution."""

from tempoquant.reconstruction.cache import UnitCache
from tempoquant.reconstruction.effort import Effort, effort
from tempoquant.reconstruction.stage import (
    reconstruct_image_layers,
    reconstruct_temporal,
    stage_units,
    two_streams,
    unit_identity,
    weight_stage,
)
from tempoquant.reconstruction.step_learning import Site
from tempoquant.reconstruction.steps import StepStage, learn_activation_steps
from tempoquant.reconstruction.tuning import Tuner
from tempoquant.reconstruction.weights import WeightStage

__all__ = [
    "Effort",
    "Site",
    "StepStage",
    "Tuner",
    "UnitCache",
    "WeightStage",
    "effort",
    "learn_activation_steps",
    "reconstruct_image_layers",
    "reconstruct_temporal",
    "stage_units",
    "two_streams",
    "unit_identity",
    "weight_stage",
]
