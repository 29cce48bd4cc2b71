"""One interval for each of N groups of consecutive time steps (S_N of TDQ, NeurIPS 2023, section 5)."""

from typing import Annotated, Any

import torch
from pydantic import Field
from torch import Tensor

from tempoquant.errors import TempoquantError
from tempoquant.intervals.clock import Clock
from tempoquant.intervals.provider import (
    Form,
    IntervalProvider,
    ObservedActivation,
    ReadTensor,
    entry_of,
    register_provider,
    stored_qparams,
)
from tempoquant.numerics import QParams, QuantSpec, StepGroups


def group_of(timestep: Tensor, groups: int, train_timesteps: int) -> Tensor:
    """The group ``floor(t N / T)`` of time steps, int64 of their shape; outside of [0, T) the first or last one.

    Args:
        timestep: any shape.
        groups: N.
        train_timesteps: T, the length of the training schedule.
    """
    return (timestep.float() * groups / train_timesteps).floor().clamp(0, groups - 1).long()


class GroupForm(Form):
    """An entry: N and T."""

    groups: Annotated[int, Field(ge=1)]
    train_timesteps: Annotated[int, Field(ge=1)]


@register_provider("groups")
class GroupInterval(IntervalProvider):
    """N scales, each for T / N consecutive training time steps; an unseen time step belongs to its own group.

    Args:
        qparams: scale and zero point of shape (N,).
        bits: width.
        clock: knows the current time step.
        train_timesteps: T, the length of the training schedule.
    """

    form = GroupForm
    scale: Tensor
    zero_point: Tensor

    def __init__(self, qparams: QParams, bits: int, clock: Clock, train_timesteps: int):
        super().__init__(bits, qparams.q_min, qparams.q_max)
        self.register_buffer("scale", qparams.scale.float())
        self.register_buffer("zero_point", qparams.zero_point.float())
        self.clock, self.train_timesteps = clock, train_timesteps

    @property
    def groups(self) -> int:
        """N."""
        return self.scale.numel()

    def at(self, row: Tensor | None) -> QParams:
        return self._of(None if row is None else self.clock.timesteps.to(row.device)[row])

    def current(self) -> QParams:
        return self._of(self.clock.timestep)

    def _of(self, timestep: Tensor | None) -> QParams:
        if timestep is None:
            raise TempoquantError("a group's interval was asked for before the denoiser was called with a time step")
        group = group_of(torch.as_tensor(timestep), self.groups, self.train_timesteps).to(self.scale.device)
        return QParams(entry_of(self.scale, group), entry_of(self.zero_point, group), self.q_min, self.q_max)

    @classmethod
    def serves(cls, spec: QuantSpec) -> bool:
        return isinstance(spec.schedule, StepGroups)

    @classmethod
    def from_observed(cls, observed: ObservedActivation) -> "GroupInterval":
        count, spec = getattr(observed.spec.schedule, "count", 1), observed.spec
        groups = group_of(observed.clock.timesteps, count, observed.train_timesteps).tolist()
        return cls(observed.qparams(groups, count), spec.bits, observed.clock, observed.train_timesteps)

    def to_entry(self) -> dict[str, Any]:
        return super().to_entry() | {"groups": self.groups, "train_timesteps": self.train_timesteps}

    def tensors(self) -> dict[str, Tensor]:
        return {"scale": self.scale, "zero": self.zero_point}

    @classmethod
    def from_entry(cls, form: GroupForm, read: ReadTensor, clock: Clock) -> "GroupInterval":
        return cls(stored_qparams(form.bits, read, form.groups), form.bits, clock, form.train_timesteps)
