"""Finding what went wrong in a quantized denoiser, by comparing it with full precision."""

from tempoquant.diagnosis.diagnose import check_diagnosable, diagnose
from tempoquant.diagnosis.fragment import read_fragment, with_overrides
from tempoquant.diagnosis.result import VARIANTS, Diagnosis
from tempoquant.diagnosis.walks import Cost
from tempoquant.diagnosis.watch import LEVELS

__all__ = [
    "LEVELS",
    "VARIANTS",
    "Cost",
    "Diagnosis",
    "check_diagnosable",
    "diagnose",
    "read_fragment",
    "with_overrides",
]
