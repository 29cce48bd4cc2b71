"""The registry of export targets: runtimes that a quantized denoiser can be written for, one file each.

Nothing here needs torch.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tempoquant.exporting.extras import needed
from tempoquant.extension import Names
from tempoquant.plugins import load_plugins

if TYPE_CHECKING:
    from torch import Tensor

    from tempoquant.exporting.exported_denoiser import Session
    from tempoquant.exporting.traceable import PlainGraph

MANIFEST = "tempoquant_export.json"


@dataclass(frozen=True)
class ExportTarget:
    """How a runtime's files are written into a component's folder, and opened again.

    Attributes:
        packages: that must be installed; the extra that brings them has the target's name.
        write: ``write(graph, example, folder)`` writes the files of a graph, traced with example inputs of batch 2.
        open: ``open(folder, options)`` gives what computes it; options are the runtime's own, by name.
    """

    packages: tuple[str, ...]
    write: "Callable[[PlainGraph, tuple[Tensor, ...], Path], None]"
    open: "Callable[[Path, Mapping[str, Any]], Session]"


TARGETS: Names[ExportTarget] = Names(
    "export target", {name: f"tempoquant.exporting.{name}" for name in ("openvino", "onnx")}
)


def register_target(name: str, target: ExportTarget) -> None:
    """Let ``name`` stand for ``target`` in :func:`tempoquant.export` and ``tempoquant export --to``.

    Raises:
        InputError: the name is taken.
    """
    TARGETS.add(name, target)


def check_target(name: str) -> str:
    """``name``, if it is that of a target, installed plugins' included; InputError otherwise."""
    if name not in TARGETS.names:
        load_plugins()
    return TARGETS.check(name)


def find_target(name: str) -> ExportTarget:
    """The target called ``name``, installed plugins' included.

    Raises:
        InputError: there is none, or a package that it needs is not installed.
    """
    for package in TARGETS[check_target(name)].packages:
        needed(package, name)
    return TARGETS[name]


def is_exported(folder: Path) -> bool:
    """Whether a folder is what :func:`~tempoquant.export` wrote."""
    return any(folder.glob(f"*/{MANIFEST}"))
