"""Correction of quantization noise while sampling: measured at every time step, applied in the scheduler (PTQD)."""

from tempoquant.correction.measure import Trajectories, compare_predictions
from tempoquant.correction.noise import QuantizationNoise, quantization_noise
from tempoquant.correction.step_bits import set_step_bits
from tempoquant.correction.stepper import check_correctable, corrected_scheduler
from tempoquant.correction.sums import PairSums
from tempoquant.correction.tables import PREFIX, CorrectionTables, correction_tables

__all__ = [
    "PREFIX",
    "CorrectionTables",
    "PairSums",
    "QuantizationNoise",
    "Trajectories",
    "check_correctable",
    "compare_predictions",
    "corrected_scheduler",
    "correction_tables",
    "quantization_noise",
    "set_step_bits",
]
