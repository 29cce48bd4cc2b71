"""Ranges of activations, observed on recorded inputs."""

from tempoquant.calibration.activations import calibrate_activations
from tempoquant.calibration.observe import observed

__all__ = ["calibrate_activations", "observed"]
