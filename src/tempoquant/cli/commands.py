"""Importing this module registers every command."""

from tempoquant.cli import (
    bake,
    bench,
    demo,
    diagnose,
    doctor,
    evaluate,
    export,
    generate,
    intervals,
    methods,
    quantize,
    report,
    train,
)

__all__ = [
    "bake",
    "bench",
    "demo",
    "diagnose",
    "doctor",
    "evaluate",
    "export",
    "generate",
    "intervals",
    "methods",
    "quantize",
    "report",
    "train",
]
