"""Importing this module registers every command."""

from tempoquant.cli import evaluate, generate, methods, quantize

__all__ = ["evaluate", "generate", "methods", "quantize"]
