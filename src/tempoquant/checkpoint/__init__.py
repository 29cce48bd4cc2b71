"""The format on disk."""

from tempoquant.checkpoint.blueprint import FORMAT_VERSION, Blueprint
from tempoquant.checkpoint.component import read_component, read_correction, write_component
from tempoquant.checkpoint.evidence import EVIDENCE, read_evidence, write_evidence
from tempoquant.checkpoint.hf_quantizer import make_savable, refuse_saving, register
from tempoquant.checkpoint.size import SizeReport, component_sizes

__all__ = [
    "EVIDENCE",
    "FORMAT_VERSION",
    "Blueprint",
    "SizeReport",
    "component_sizes",
    "make_savable",
    "read_component",
    "read_correction",
    "read_evidence",
    "refuse_saving",
    "register",
    "write_component",
    "write_evidence",
]
