"""Importing this module registers every command."""

from tempoquant.cli import bench, demo, diagnose, evaluate, export, generate, methods, quantize, report, train

__all__ = [
    "bench",
    "demo",
    "diagnose",
    "evaluate",
    "export",
    "generate",
    "methods",
    "quantize",
    "report",
    "train",
]
