"""Recording trajectories, and ranges of activations from the recording."""

from tempoquant.calibration.activations import calibrate_activations
from tempoquant.calibration.observe import observed
from tempoquant.calibration.stage import ActivationStage, calibrate, first_call, learn_steps, tune

__all__ = [
    "ActivationStage",
    "calibrate",
    "calibrate_activations",
    "first_call",
    "learn_steps",
    "observed",
    "tune",
]
