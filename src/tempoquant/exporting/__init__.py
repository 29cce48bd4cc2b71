"""Quantized denoisers for OpenVINO and ONNX Runtime."""

from tempoquant.exporting.exported import RUNTIMES, export, is_exported, load_exported

__all__ = [
    "RUNTIMES",
    "export",
    "is_exported",
    "load_exported",
]
