"""Importing this module registers every command."""

from tempoquant.cli import bench, demo, diagnose, evaluate, generate, methods, quantize, report

__all__ = ["bench", "demo", "diagnose", "evaluate", "generate", "methods", "quantize", "report"]
