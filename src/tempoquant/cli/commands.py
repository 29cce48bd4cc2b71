"""Importing this module registers every command."""

from tempoquant.cli import bench, demo, evaluate, generate, methods, quantize, train

__all__ = ["bench", "demo", "evaluate", "generate", "methods", "quantize", "train"]
