"""The current time step of one denoiser, read from its own argument: nothing here counts calls."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from tempoquant.arguments import named_arguments
from tempoquant.errors import InputError, TempoquantError
from tempoquant.intervals.conditions import Conditions
from tempoquant.sharing import PerThread

SAME_STEP = 1e-5
"""Time steps this close, relative to the largest, are one: schedules compute them in different precisions."""


class _Now(PerThread):
    """The time step of a thread's latest call, and its row."""

    timestep: Tensor | None = None
    row: Tensor | None = None


class Clock:
    """Maps time steps to rows: indices of the unique recorded time steps, in ascending order.

    A time step that was not recorded takes the nearest row; edges are midpoints. A batch of mixed time steps has a row
    an item. Every thread has a current time step of its own: that of its latest call.

    Args:
        timesteps: the recorded values of the denoiser's argument; any order, repeats allowed.
        position: where the module's ``forward`` takes its time step, if not as a keyword alone.
        name: the keyword.

    Attributes:
        frozen: whether a time step that was not recorded is an error.
        conditions: those that a frozen denoiser has features for, or None where its features follow none.
    """

    def __init__(self, timesteps: Tensor, position: int | None, name: str):
        self.position, self.name = position, name
        self.frozen = False
        self.use(timesteps)

    def use(self, timesteps: Tensor) -> None:
        """Let rows be those of other time steps, as for a new clock; all tables by row must be replaced.

        Args:
            timesteps: any order, repeats allowed.
        """
        self.timesteps = torch.unique(timesteps.detach().float().cpu())
        self.edges = (self.timesteps[1:] + self.timesteps[:-1]) / 2
        self._now = _Now()
        self.conditions: Conditions | None = None

    def __len__(self) -> int:
        return self.timesteps.numel()

    @property
    def timestep(self) -> Tensor | None:
        """The current time step as the denoiser's argument has it: of shape () or, mixed, (B,)."""
        return self._now.timestep

    @property
    def row(self) -> Tensor | None:
        """The row of the current time step, int64, likewise."""
        return self._now.row

    @property
    def table_rows(self) -> int:
        """Rows of a temporal table: one a time step, or one a time step and condition."""
        return len(self) * (1 if self.conditions is None else len(self.conditions))

    @property
    def table_row(self) -> Tensor | None:
        """The current row of temporal tables, of shape () or (B,); conditions of a time step follow each other."""
        row = self.row
        if row is None or self.conditions is None:
            return row
        return None if self.conditions.index is None else row * len(self.conditions) + self.conditions.index

    def rows(self, timestep: Tensor | float) -> Tensor:
        """Rows of time steps, int64, of their shape."""
        steps, edges = torch.as_tensor(timestep), self.edges
        if edges.device != steps.device:
            self.edges = edges = edges.to(steps.device)
        return torch.bucketize(steps.float(), edges)

    @contextmanager
    def at(self, timestep: Tensor | float, row: Tensor | None = None) -> Iterator[None]:
        """Let a time step be the current one of this thread in a ``with`` block.

        Args:
            timestep: a number, a tensor (), or (B,) for a batch of mixed time steps.
            row: its row, int64 of its shape, if it is not to be looked up and checked: in a traced graph.

        Raises:
            InputError: the clock is frozen, and the time step is none of the recorded ones.
        """
        before = self._now.timestep, self._now.row
        if row is None:
            self._set(timestep)
        else:
            self._now.timestep, self._now.row = torch.as_tensor(timestep), row
        try:
            yield
        finally:
            self._now.timestep, self._now.row = before

    def _set(self, timestep: Tensor | float) -> None:
        steps = _one_if_alike(torch.as_tensor(timestep))
        if self.frozen:
            check_recorded(steps, self.timesteps)
        self._now.timestep, self._now.row = steps, _one_if_alike(self.rows(steps))

    def attach(self, module: nn.Module) -> RemovableHandle:
        """Read the time step at every call of ``module`` from now on."""
        return module.register_forward_pre_hook(self._read, with_kwargs=True)

    @torch.compiler.disable
    def _read(self, module: nn.Module, args: tuple, kwargs: dict[str, Any]) -> None:
        if self.name in kwargs:
            self._set(kwargs[self.name])
        elif self.position is not None and self.position < len(args):
            self._set(args[self.position])
        else:
            raise TempoquantError(f"the denoiser was called without its time step argument {self.name!r}")
        if self.conditions is not None:
            self.conditions.set(named_arguments(module.forward, args, kwargs))


def check_recorded(timestep: Tensor, recorded: Tensor) -> None:
    """Refuse time steps that were not recorded.

    Args:
        timestep: any shape.
        recorded: (R,) ascending.

    Raises:
        InputError: names the first.
    """
    steps = timestep.detach().float().cpu().flatten()
    distance, nearest = (steps[:, None] - recorded[None]).abs().min(1)
    wrong = (distance > SAME_STEP * recorded.abs().max().clamp(min=1)).nonzero()
    if len(wrong):
        raise InputError(
            f"time step {float(steps[wrong[0]]):g} is none of the {len(recorded)} that this denoiser is frozen to "
            f"(the nearest is {float(recorded[nearest[wrong[0]]]):g}): draw with its own schedule"
        )


def _one_if_alike(values: Tensor) -> Tensor:
    """One value where all are the same: the usual case, which integer kernels compute in a single call."""
    alike = values.dim() == 0 or bool((values == values.flatten()[0]).all())
    return values.flatten()[0] if alike else values
