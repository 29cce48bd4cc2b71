"""Which argument of a module carries the time step: found by changing it."""

import inspect
from typing import Any

import torch
from torch import Tensor, nn

from tempoquant.errors import InputError
from tempoquant.graph.probing import BATCH, removing, run_example
from tempoquant.graph.types import Probe, TimeArgument

USUAL_NAMES = ("timestep", "timesteps", "time_step", "t", "time", "sigma")


def time_argument(probe: Probe) -> TimeArgument:
    """Find the argument of ``module.forward`` that carries the time step.

    Of several that do (a scale derived from it, say), one that equals the time step is preferred, then one with a
    usual name, then the first.

    Raises:
        InputError: none does.
    """
    t = list(dict.fromkeys(probe.timesteps))[:2]
    first, second = (_arguments(probe, step) for step in t)
    names = list(inspect.signature(probe.module.forward).parameters)
    candidates: list[tuple[bool, bool, int, TimeArgument]] = []
    for key, value in first.items():
        if _is_step(value) and _is_step(second.get(key)) and not _same(value, second[key]):
            name = key if isinstance(key, str) else names[key] if key < len(names) else str(key)
            position = key if isinstance(key, int) else names.index(key) if key in names else None
            differs = not (_same(value, t[0]) and _same(second[key], t[1]))
            candidates.append((differs, name not in USUAL_NAMES, len(candidates), TimeArgument(position, name)))
    if not candidates:
        raise InputError(
            "no argument of the denoiser's module carries the time step as a number or a tensor of one value an item: "
            "is it passed on by its call?"
        )
    return min(candidates, key=lambda candidate: candidate[:3])[3]


def _arguments(probe: Probe, timestep: float) -> dict[Any, Any]:
    arguments: dict[Any, Any] = {}

    def hook(module: nn.Module, args: tuple, kwargs: dict) -> None:
        arguments.update(enumerate(args))
        arguments.update(kwargs)

    handle = probe.module.register_forward_pre_hook(hook, with_kwargs=True)
    with removing([handle]):
        run_example(probe, timestep)
    return arguments


def _is_step(value: Any) -> bool:
    if isinstance(value, Tensor):
        return tuple(value.shape) in ((), (1,), (BATCH,))
    return isinstance(value, int | float)


def _same(a: Any, b: Any) -> bool:
    return bool((torch.as_tensor(a, dtype=torch.float64) == torch.as_tensor(b, dtype=torch.float64)).all())
