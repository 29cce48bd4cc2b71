"""Ranges of activations, observed on recorded inputs."""

from tempoquant.calibration.activations import RecordedInputs, calibrate_activations
from tempoquant.calibration.observe import observed

__all__ = ["RecordedInputs", "calibrate_activations", "observed"]
