"""Which layers execute, in which order, and what each one's input depends on: found by observation."""

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from tempoquant.errors import InputError, NumericsError
from tempoquant.graph.types import Category, LayerInfo, Probe

KINDS = {nn.Linear: "linear", nn.Conv2d: "conv2d"}
OTHER_KINDS = (nn.Conv1d, nn.Conv3d, nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d, nn.MultiheadAttention)
BATCH = 2

Prints = dict[str, list[bytes]]


def quantizable_layers(module: nn.Module) -> dict[str, nn.Module]:
    """Every Linear and Conv2d by name; those inside a MultiheadAttention run in its own kernel and are left out."""
    sealed = [n + "." for n, m in module.named_modules() if isinstance(m, nn.MultiheadAttention)]
    named = module.named_modules()
    return {n: m for n, m in named if isinstance(m, tuple(KINDS)) and not any(n.startswith(s) for s in sealed)}


def example(probe: Probe, variant: int, timestep: float | Tensor, condition: int) -> tuple[tuple[Tensor, Tensor], dict]:
    """Arguments of a run: sample number ``variant``, a time step for all items or one an item, and a conditioning."""
    draw = torch.Generator().manual_seed(variant)
    sample = torch.randn((BATCH, *probe.sample_shape), generator=draw)
    steps = torch.as_tensor(timestep).expand(BATCH)
    return (sample, steps), probe.conditioning(BATCH, condition)


@contextmanager
def evaluating(module: nn.Module) -> Iterator[None]:
    """Evaluation mode without gradients for the time of a block; dropout must not look like dependence."""
    training = [part for part in module.modules() if part.training]
    module.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        for part in training:
            part.training = True


def observe_layers(probe: Probe) -> tuple[tuple[LayerInfo, ...], tuple[str, ...]]:
    """The layers that execute, in order and categorized, and the names of those that never do.

    A layer's input is compared, byte for byte, between runs that differ in the sample, the time step or the
    conditioning alone. Three time steps are compared, so that two equal by accident do not hide the dependence.

    Raises:
        InputError: no layer depends on the time step. NumericsError: an output is not finite.
    """
    t = list(probe.timesteps)
    base = fingerprints(probe, 0, t[0], 0)
    by_sample = fingerprints(probe, 1, t[0], 0)
    by_condition = fingerprints(probe, 0, t[0], 1)
    by_time = [fingerprints(probe, 0, step, 0) for step in t[1:3]]
    # A batch of mixed time steps must run: calibration and reconstruction batch them.
    fingerprints(probe, 0, torch.tensor([t[0], t[1]]), 0)
    layers = []
    for order, (name, prints) in enumerate(base.items()):
        category = categorize(
            prints != by_sample.get(name),
            any(prints != other.get(name) for other in by_time),
            prints != by_condition.get(name),
        )
        layer = probe.module.get_submodule(name)
        kind = next(k for cls, k in KINDS.items() if isinstance(layer, cls))
        strided = kind == "conv2d" and max(layer.stride) > 1  # type: ignore[arg-type]
        shape = tuple(layer.weight.shape)  # type: ignore[union-attr, arg-type]
        layers.append(LayerInfo(name, kind, category, order, len(prints), shape, strided))
    if not any(layer.category in (Category.TEMPORAL, Category.TEMPORAL_CONDITION) for layer in layers):
        raise InputError("no layer of this denoiser sees the time step alone: is the time step passed on by its call?")
    return tuple(layers), tuple(n for n in quantizable_layers(probe.module) if n not in base)


def categorize(sample: bool, time: bool, condition: bool) -> Category:
    """The category of a layer whose input changes with these."""
    if sample:
        return Category.IMAGE
    if time:
        return Category.TEMPORAL_CONDITION if condition else Category.TEMPORAL
    return Category.CONDITION if condition else Category.CONSTANT


def fingerprints(probe: Probe, variant: int, timestep: float | Tensor, condition: int) -> Prints:
    """Hashes of every call's input by layer, in order of execution."""
    prints: Prints = {}

    def hook(name: str) -> Any:
        def see(module: nn.Module, args: tuple) -> None:
            prints.setdefault(name, []).append(fingerprint(args[0]))

        return see

    handles = [m.register_forward_pre_hook(hook(n)) for n, m in quantizable_layers(probe.module).items()]
    (sample, steps), conditioning = example(probe, variant, timestep, condition)
    try:
        with evaluating(probe.module):
            output = probe.run(sample, steps, **conditioning)
    finally:
        for handle in handles:
            handle.remove()
    if not torch.isfinite(output).all():
        raise NumericsError(f"the denoiser's output is not finite at time step {float(steps.max()):g}")
    return prints


def fingerprint(x: Tensor) -> bytes:
    """A hash of a tensor's bytes."""
    data = x.detach().contiguous().view(torch.uint8) if x.dim() else x.detach().reshape(1).view(torch.uint8)
    return hashlib.blake2b(data.cpu().numpy(), digest_size=16).digest()
