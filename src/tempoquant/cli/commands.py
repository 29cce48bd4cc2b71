"""Importing this module registers every command."""

from tempoquant.cli import bench, demo, evaluate, export, generate, methods, quantize, train

__all__ = ["bench", "demo", "evaluate", "export", "generate", "methods", "quantize", "train"]
