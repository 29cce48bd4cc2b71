"""Importing this module registers every command."""

from tempoquant.cli import bench, demo, evaluate, generate, methods, quantize

__all__ = ["bench", "demo", "evaluate", "generate", "methods", "quantize"]
