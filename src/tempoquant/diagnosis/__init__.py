"""Diagnosis of a quantized denoiser by comparison with full precision: by layer, unit and time step; figures."""

from tempoquant.diagnosis.activation_intervals import ActivationIntervals, read_activation_intervals
from tempoquant.diagnosis.activation_quantiles import LEVELS
from tempoquant.diagnosis.diagnosing import check_diagnosable, diagnose
from tempoquant.diagnosis.free_running import Cost
from tempoquant.diagnosis.result import DATA, VARIANTS, Diagnosis
from tempoquant.diagnosis.saved import StrictEntries

__all__ = [
    "DATA",
    "LEVELS",
    "VARIANTS",
    "ActivationIntervals",
    "Cost",
    "Diagnosis",
    "StrictEntries",
    "check_diagnosable",
    "diagnose",
    "read_activation_intervals",
]
