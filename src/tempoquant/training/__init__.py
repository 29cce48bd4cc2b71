"""Quantization-aware training: quantizers that learn, and the loop that trains them."""

from tempoquant.training.bank import Bank, LearnedInterval
from tempoquant.training.data import open_images
from tempoquant.training.processes import Processes
from tempoquant.training.run import Rhythm
from tempoquant.training.schemes import SCHEMES, Scheme

__all__ = ["SCHEMES", "Bank", "LearnedInterval", "Processes", "Rhythm", "Scheme", "open_images"]
