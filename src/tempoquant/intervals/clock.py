"""The current time step of one denoiser, read from its own argument: nothing here counts calls."""

from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from tempoquant.errors import TempoquantError


class Clock:
    """Maps time steps to rows: indices of the unique recorded time steps, in ascending order.

    An unseen time step takes the nearest row; edges are midpoints. A batch of mixed time steps gives one row an item.

    Args:
        timesteps: the recorded values, as the denoiser's argument saw them; any order, repeats allowed.
        position, name: where the module's ``forward`` takes its time step: by position, or as a keyword.
    """

    def __init__(self, timesteps: Tensor, position: int | None, name: str):
        self.timesteps = torch.unique(timesteps.detach().float().cpu())
        self.edges = (self.timesteps[1:] + self.timesteps[:-1]) / 2
        self.position, self.name = position, name
        self.row: Tensor | None = None

    def __len__(self) -> int:
        return self.timesteps.numel()

    def rows(self, timestep: Tensor | float) -> Tensor:
        """Rows of the given time steps, int64, of their shape."""
        steps = torch.as_tensor(timestep)
        if self.edges.device != steps.device:
            self.edges = self.edges.to(steps.device)
        return torch.bucketize(steps.float(), self.edges)

    def attach(self, module: nn.Module) -> RemovableHandle:
        """Read the time step at every call of ``module`` from now on."""
        return module.register_forward_pre_hook(self._read, with_kwargs=True)

    def _read(self, module: nn.Module, args: tuple, kwargs: dict[str, Any]) -> None:
        if self.name in kwargs:
            timestep = kwargs[self.name]
        elif self.position is not None and self.position < len(args):
            timestep = args[self.position]
        else:
            raise TempoquantError(f"the denoiser was called without its time step argument {self.name!r}")
        rows = self.rows(timestep)
        # One row for all is the usual case, and the one that integer kernels take in a single call.
        alike = rows.dim() == 0 or bool((rows == rows.flatten()[0]).all())
        self.row = rows.flatten()[0] if alike else rows
