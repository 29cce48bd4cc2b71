"""The format on disk."""

from tempoquant.checkpoint.blueprint import FORMAT_VERSION, Blueprint
from tempoquant.checkpoint.component import read_component, read_config, read_correction, write_component
from tempoquant.checkpoint.evidence import (
    EVIDENCE,
    add_evidence,
    file_hash,
    machine,
    read_evidence,
    told_evidence,
    versions,
    write_evidence,
)
from tempoquant.checkpoint.features import described_replacements
from tempoquant.checkpoint.hf_quantizer import TempoquantQuantizer, make_savable, refuse_saving, register
from tempoquant.checkpoint.size import SizeReport, component_sizes
from tempoquant.checkpoint.tensors import full_bytes

__all__ = [
    "EVIDENCE",
    "FORMAT_VERSION",
    "Blueprint",
    "SizeReport",
    "TempoquantQuantizer",
    "add_evidence",
    "component_sizes",
    "described_replacements",
    "file_hash",
    "full_bytes",
    "machine",
    "make_savable",
    "read_component",
    "read_config",
    "read_correction",
    "read_evidence",
    "refuse_saving",
    "register",
    "told_evidence",
    "versions",
    "write_component",
    "write_evidence",
]
