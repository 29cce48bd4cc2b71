"""The format on disk of a quantized denoiser, and loading it through diffusers."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tempoquant.checkpoint.blueprint import FORMAT_VERSION, Blueprint
    from tempoquant.checkpoint.component import read_component, read_config, read_correction, write_component
    from tempoquant.checkpoint.evidence import (
        EVIDENCE,
        add_evidence,
        describe_evidence,
        file_hash,
        machine,
        read_evidence,
        versions,
        write_evidence,
    )
    from tempoquant.checkpoint.features import described_replacements
    from tempoquant.checkpoint.folders import BARE, component_of, is_quantized
    from tempoquant.checkpoint.hf_quantizer import TempoquantQuantizer, make_savable, refuse_saving
    from tempoquant.checkpoint.size import SizeReport, component_sizes
    from tempoquant.checkpoint.tensors import full_bytes
else:
    from tempoquant.imports import lazy_face

    __getattr__, __dir__ = lazy_face(__name__, __file__)

__all__ = [
    "BARE",
    "EVIDENCE",
    "FORMAT_VERSION",
    "Blueprint",
    "SizeReport",
    "TempoquantQuantizer",
    "add_evidence",
    "component_of",
    "component_sizes",
    "describe_evidence",
    "described_replacements",
    "file_hash",
    "full_bytes",
    "is_quantized",
    "machine",
    "make_savable",
    "read_component",
    "read_config",
    "read_correction",
    "read_evidence",
    "refuse_saving",
    "versions",
    "write_component",
    "write_evidence",
]
