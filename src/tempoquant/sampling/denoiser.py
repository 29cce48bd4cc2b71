"""What this package calls a denoiser: a module, how to call it, its schedule and its sample shape."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from tempoquant.sampling.schedule_tables import TablesBySchedule

Conditioning = Mapping[str, Any]
"""Keyword arguments of the denoiser beside sample and time step; tensors have the batch as their first dimension, and
what has none is :class:`Unbatched`."""

Call = Callable[..., Tensor]


@dataclass(frozen=True, eq=False)
class Unbatched:
    """A keyword argument of a denoiser that has no batch dimension, such as the places of tokens.

    Where conditions are cut, stacked or repeated by row it stays as it is; :class:`Denoiser` takes the value out.
    """

    value: Any


def plain_call(module: nn.Module, sample: Tensor, timestep: Tensor, **conditioning: Any) -> Tensor:
    """Call ``module(sample, timestep, **conditioning)`` and return its tensor, whatever it comes wrapped in.

    An output that holds no tensor is returned as it is: whoever knows the step refuses it.

    Args:
        module: the denoiser.
        sample: (B, *sample_shape).
        timestep: (B,), the schedule's values.
        conditioning: further keyword arguments.
    """
    return unwrapped(module(sample, timestep, **conditioning))


def unwrapped(output: Any) -> Any:
    """The prediction in a module's output: its ``sample``, the first of its entries, or the output itself."""
    if hasattr(output, "sample"):
        return output.sample
    entries = tuple(output.values()) if isinstance(output, Mapping) else output
    return entries[0] if isinstance(entries, tuple | list) and entries else output


@dataclass
class Denoiser:
    """A denoiser of any class, wrapped once.

    Args:
        module: the network; called with a noisy sample (B, *sample_shape) and time steps (B,).
        scheduler: a diffusers scheduler in the configuration the network was trained for.
        sample_shape: shape of one sample without the batch, e.g. ``(3, 64, 64)``; () if a run alone shows it, see
            :meth:`tempoquant.pipelines.Model.for_conditioning`.
        call: ``call(module, sample, timestep, **conditioning) -> Tensor`` of the sample's shape.
        name: what reports call it.
        recorded: (R,) the time steps that its per-step tables have rows for; None without such tables.
        bake: makes these tables for other time steps, in any order, and returns the rows'; None: they stay as they are.
    """

    module: nn.Module
    scheduler: Any
    sample_shape: tuple[int, ...]
    call: Call = plain_call
    name: str = "denoiser"
    recorded: Tensor | None = None
    bake: TablesBySchedule | None = None

    def __call__(self, sample: Tensor, timestep: Tensor | int, **conditioning: Any) -> Tensor:
        """The prediction for ``sample`` (B, *sample_shape) at ``timestep`` (one value, or (B,)), of its shape."""
        steps = torch.as_tensor(timestep, device=sample.device)
        arguments = {name: _taken_out(value, sample.device) for name, value in conditioning.items()}
        return self.call(self.module, sample, steps.expand(sample.shape[0]), **arguments)


def _taken_out(value: Any, device: torch.device) -> Any:
    """A keyword argument as the module takes it."""
    if isinstance(value, Mapping):
        return {name: _taken_out(part, device) for name, part in value.items()}
    if not isinstance(value, Unbatched):
        return value
    return value.value.to(device) if isinstance(value.value, Tensor) else value.value
