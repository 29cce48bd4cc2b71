"""Quantization-aware training: quantizers that learn, and the loop that trains them."""

from tempoquant.training.data import Pictures, open_images
from tempoquant.training.objectives import DiffusionLoss, Distillation, Objective
from tempoquant.training.prepare import Trainee, fold, make_trainable
from tempoquant.training.processes import Processes
from tempoquant.training.run import Rhythm, train_steps
from tempoquant.training.trainer import Trainer

__all__ = [
    "DiffusionLoss",
    "Distillation",
    "Objective",
    "Pictures",
    "Processes",
    "Rhythm",
    "Trainee",
    "Trainer",
    "fold",
    "make_trainable",
    "open_images",
    "train_steps",
]
