"""Reading a denoiser: everything the other rooms need to know of its structure, from example inputs alone."""

import inspect
from typing import Any

import torch
from torch import Tensor, nn

from tempoquant.errors import InputError
from tempoquant.graph.attention import attention_products
from tempoquant.graph.observe import OTHER_KINDS, evaluating, example, observe_layers
from tempoquant.graph.splits import split_points
from tempoquant.graph.temporal import TEMPORAL, split_block, tape
from tempoquant.graph.types import DenoiserGraph, Probe, TimeArgument
from tempoquant.graph.units import reconstruction_units


def read_denoiser(probe: Probe) -> DenoiserGraph:
    """Read a denoiser's structure; it is left as it was.

    Raises:
        InputError: fewer than two time steps, or nothing in the denoiser depends on them.
        NumericsError: the denoiser returned NaN or infinity.
    """
    if len(set(probe.timesteps)) < 2:
        raise InputError(f"{len(set(probe.timesteps))} distinct time steps: at least 2 are needed to read a denoiser")
    layers, unused = observe_layers(probe)
    temporal = {la.name: probe.module.get_submodule(la.name) for la in layers if la.category in TEMPORAL}
    shared, projections = split_block(tape(probe, temporal, probe.timesteps[0], probe.conditioning(1, 0)).ops, temporal)
    attention, unreached = attention_products(probe)
    return DenoiserGraph(
        layers=layers,
        unused=unused,
        unsupported=tuple(n for n, m in probe.module.named_modules() if isinstance(m, OTHER_KINDS)),
        shared=shared,
        projections=projections,
        units=reconstruction_units(probe.module, layers),
        splits=split_points(probe, layers),
        attention=attention,
        unreached=unreached,
        time_argument=time_argument(probe),
    )


def time_argument(probe: Probe) -> TimeArgument:
    """Which argument of ``module.forward`` follows the time step.

    Raises:
        InputError: none does.
    """
    first, second = (_arguments(probe, step) for step in probe.timesteps[:2])
    names = list(inspect.signature(probe.module.forward).parameters)
    for key, value in first.items():
        if _is_step(value) and not _equal(value, second.get(key)):
            if isinstance(key, str):
                return TimeArgument(names.index(key) if key in names else None, key)
            return TimeArgument(key, names[key] if key < len(names) else str(key))
    raise InputError("the denoiser's time step never reaches an argument of its module: is it passed on by its call?")


def _arguments(probe: Probe, timestep: float) -> dict[Any, Any]:
    seen: dict[Any, Any] = {}

    def hook(module: nn.Module, args: tuple, kwargs: dict) -> None:
        seen.update(enumerate(args))
        seen.update(kwargs)

    handle = probe.module.register_forward_pre_hook(hook, with_kwargs=True)
    (sample, steps), conditioning = example(probe, 0, timestep, 0)
    try:
        with evaluating(probe.module):
            probe.run(sample, steps, **conditioning)
    finally:
        handle.remove()
    return seen


def _is_step(value: Any) -> bool:
    return isinstance(value, int | float) or (isinstance(value, Tensor) and value.dim() <= 1)


def _equal(a: Any, b: Any) -> bool:
    if isinstance(a, Tensor) and isinstance(b, Tensor):
        return torch.equal(a, b)
    return bool(a == b)
