"""The registry of export targets: runtimes that a quantized denoiser can be written for, one file each."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from tempoquant.errors import InputError, unknown
from tempoquant.exporting.extras import needed
from tempoquant.exporting.runner import Session
from tempoquant.exporting.traceable import PlainGraph
from tempoquant.plugins import load_plugins


@dataclass(frozen=True)
class ExportTarget:
    """How a runtime's files are written into a component's folder, and opened again.

    Attributes:
        packages: that must be installed; the extra that brings them has the target's name.
        write: ``write(graph, example, folder)`` writes the files of a graph, traced with example inputs of batch 2.
        open: ``open(folder, options)`` gives what computes it; options are the runtime's own, by name.
    """

    packages: tuple[str, ...]
    write: Callable[[PlainGraph, tuple[Tensor, ...], Path], None]
    open: Callable[[Path, Mapping[str, Any]], Session]


TARGETS: dict[str, ExportTarget] = {}


def register_target(name: str, target: ExportTarget) -> None:
    """Let ``name`` stand for ``target`` in :func:`tempoquant.export` and ``tempoquant export --to``.

    Raises:
        InputError: the name is taken.
    """
    if name in TARGETS:
        raise InputError(f"export target {name!r} exists already: choose another name")
    TARGETS[name] = target


def find_target(name: str) -> ExportTarget:
    """The target called ``name``, installed plugins' included.

    Raises:
        InputError: there is none, or a package that it needs is not installed.
    """
    if name not in TARGETS:
        load_plugins()
    if name not in TARGETS:
        raise unknown("export target", name, TARGETS)
    for package in TARGETS[name].packages:
        needed(package, name)
    return TARGETS[name]
