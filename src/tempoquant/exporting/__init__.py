"""Quantized denoisers for other runtimes: OpenVINO, ONNX Runtime, and what plugins register."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tempoquant.exporting.exported import export, load_exported
    from tempoquant.exporting.targets import (
        TARGETS,
        ExportTarget,
        check_target,
        find_target,
        is_exported,
        register_target,
    )
    from tempoquant.exporting.traceable import PlainGraph
else:
    from tempoquant.imports import lazy_face

    __getattr__, __dir__ = lazy_face(__name__, __file__)

__all__ = [
    "TARGETS",
    "ExportTarget",
    "PlainGraph",
    "check_target",
    "export",
    "find_target",
    "is_exported",
    "load_exported",
    "register_target",
]
