"""Quantization-aware training: quantizers that learn, and the loop that trains them."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tempoquant.training.data import Pictures, open_images
    from tempoquant.training.objectives import DiffusionLoss, Distillation, Objective
    from tempoquant.training.prepare import Trainee, fold, make_trainable
    from tempoquant.training.processes import Processes
    from tempoquant.training.rank import process_rank
    from tempoquant.training.rhythm import Rhythm
    from tempoquant.training.run import train_steps
    from tempoquant.training.trainer import Trainer
else:
    from tempoquant.imports import lazy_face

    __getattr__, __dir__ = lazy_face(__name__, __file__)

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
    "process_rank",
    "train_steps",
]
