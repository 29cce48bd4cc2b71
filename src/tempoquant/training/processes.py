"""Training in several processes (``accelerate launch``): each takes its rows of every batch, gradients are averaged."""

import os
from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor

from tempoquant.errors import InputError
from tempoquant.training.rank import process_rank


class Processes:
    """The processes of a run; one alone needs nothing of ``accelerate``.

    Attributes:
        rank: this one's number, 0 for the one that writes. count: of all. device: where this one computes.

    Raises:
        InputError: there are more of them than devices.
    """

    def __init__(self) -> None:
        self.count, self.rank = int(os.environ.get("WORLD_SIZE", "1")), process_rank()
        local = int(os.environ.get("LOCAL_WORLD_SIZE", str(self.count)))
        gpu = torch.cuda.is_available() and os.environ.get("ACCELERATE_USE_CPU", "").lower() not in ("true", "1", "yes")
        devices = torch.cuda.device_count() if gpu else os.cpu_count() or 1
        if local > devices:
            raise InputError(
                f"{local} processes and {devices} {'GPUs' if gpu else 'processor cores'}: use fewer processes"
            )
        self.accelerator: Any = None
        self.device = torch.device("cuda" if gpu else "cpu")
        if self.count > 1:
            from accelerate import Accelerator

            self.accelerator = Accelerator(cpu=not gpu)
            self.device = self.accelerator.device

    @property
    def writes(self) -> bool:
        """Whether this is the process that writes files."""
        return self.rank == 0

    def rows(self, batch: int) -> slice:
        """This process's part of a batch.

        Raises:
            InputError: the batch has no equal parts.
        """
        if batch % self.count:
            raise InputError(f"a batch of {batch} cannot be shared equally by {self.count} processes")
        own = batch // self.count
        return slice(self.rank * own, (self.rank + 1) * own)

    def average(self, tensors: Sequence[Tensor]) -> None:
        """Replace every tensor by its mean over all processes, in one exchange."""
        if self.accelerator is None:
            return
        flat = self.accelerator.reduce(torch.cat([t.flatten() for t in tensors]), "mean")
        for tensor, part in zip(tensors, flat.split([t.numel() for t in tensors]), strict=True):
            tensor.copy_(part.view(tensor.shape))

    def same(self, tensors: Iterable[Tensor]) -> None:
        """Give every process the first one's values."""
        if self.accelerator is not None:
            for tensor in tensors:
                torch.distributed.broadcast(tensor, 0)
