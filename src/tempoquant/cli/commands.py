"""Importing this module registers every command."""

from tempoquant.cli import demo, evaluate, generate, methods, quantize

__all__ = ["demo", "evaluate", "generate", "methods", "quantize"]
