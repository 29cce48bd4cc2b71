"""Finding what went wrong in a quantized denoiser, by comparing it with full precision."""

from tempoquant.diagnosis.diagnosing import check_diagnosable, diagnose
from tempoquant.diagnosis.result import DATA, VARIANTS, Diagnosis
from tempoquant.diagnosis.saved import Part
from tempoquant.diagnosis.spreads import Spreads, interval_spreads
from tempoquant.diagnosis.walks import Cost
from tempoquant.diagnosis.watch import LEVELS

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
