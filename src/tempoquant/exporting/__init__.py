"""Quantized denoisers for other runtimes: OpenVINO, ONNX Runtime, and what plugins register."""

# Importing a target's module registers it.
from tempoquant.exporting import onnx, openvino
from tempoquant.exporting.exported import export, is_exported, load_exported
from tempoquant.exporting.targets import TARGETS, ExportTarget, find_target, register_target
from tempoquant.exporting.traceable import PlainGraph

__all__ = [
    "TARGETS",
    "ExportTarget",
    "PlainGraph",
    "export",
    "find_target",
    "is_exported",
    "load_exported",
    "onnx",
    "openvino",
    "register_target",
]
