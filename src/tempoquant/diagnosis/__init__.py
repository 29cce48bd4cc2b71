"""Finding what went wrong in a quantized denoiser, by comparing it with full precision."""

from tempoquant.diagnosis.activation_intervals import Spreads, interval_spreads
from tempoquant.diagnosis.activation_quantiles import LEVELS
from tempoquant.diagnosis.diagnosing import check_diagnosable, diagnose
from tempoquant.diagnosis.free_running import Cost
from tempoquant.diagnosis.result import DATA, VARIANTS, Diagnosis
from tempoquant.diagnosis.saved import Part

__all__ = [
    "DATA",
    "LEVELS",
    "VARIANTS",
    "Cost",
    "Diagnosis",
    "Part",
    "Spreads",
    "check_diagnosable",
    "diagnose",
    "interval_spreads",
]
