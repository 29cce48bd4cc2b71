"""Running a denoiser on example inputs, with its modes, hooks and the global random state left unchanged."""

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from tempoquant.graph.kinds import stock_kind_of
from tempoquant.graph.types import Probe
from tempoquant.modes import evaluating
from tempoquant.predictions import call_denoiser, step_name

SEALED = (nn.MultiheadAttention, nn.TransformerEncoderLayer)
"""Modules that may hand the weights inside them to one native operator, which knows no integers."""
BATCH = 2
SMALLEST = 16
SHAPE_ERRORS = (RuntimeError, TypeError, ValueError, IndexError)
"""What a function raises when it is given shapes that it cannot take."""


def quantizable_layers(module: nn.Module, looks_up: bool = False) -> dict[str, nn.Module]:
    """Every layer of :data:`~tempoquant.graph.kinds.KINDS`, by name, that computes as its class does.

    Layers inside a :data:`SEALED` module are left out.

    Args:
        looks_up: those whose input is indices (Embedding), instead of those that multiply their input.
    """
    kinds = ((name, part, stock_kind_of(part)) for name, part in module.named_modules())
    return {
        name: part
        for name, part, kind in kinds
        if kind is not None and kind.looks_up == looks_up and sealed_around(module, name) is None
    }


def sealed_around(module: nn.Module, name: str) -> str | None:
    """The outermost :data:`SEALED` module that the named one is a part of, or itself; None if there is none."""
    parts = name.split(".")
    above = (".".join(parts[: i + 1]) for i in range(len(parts)))
    return next((path for path in above if path and isinstance(module.get_submodule(path), SEALED)), None)


@contextmanager
def unchanged(module: nn.Module) -> Iterator[None]:
    """Evaluation mode and no gradients for the time of a block; the random state is the same before and after.

    Dropout must not look like dependence, nor noise that a denoiser draws for itself: every run draws the same.
    """
    # Tensors of inference mode do not tell when they are changed in place.
    with evaluating(module), torch.inference_mode(False), torch.no_grad(), torch.random.fork_rng():
        yield


@contextmanager
def removing(handles: list[Any]) -> Iterator[None]:
    """Remove hooks at the end of a block, whatever happens in it."""
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def run_example(
    probe: Probe,
    timestep: float | Tensor,
    *,
    variant: int = 0,
    condition: int = 0,
    batch: int = BATCH,
    conditioning: dict[str, Any] | None = None,
) -> Tensor:
    """Run the denoiser on an example; integer time steps are passed as int64, others as float32.

    Args:
        timestep: one value for all items, or (batch,).
        variant: number of the random sample.
        condition: variant of the probe's conditioning, unless ``conditioning`` is passed.
        batch: number of items.
        conditioning: keyword arguments of the call.

    Returns:
        The prediction, (batch, C, ...) in the denoiser's dtype.

    Raises:
        InputError: the denoiser raises, or returns no tensor of the sample's batch and sides.
    """
    parameter = next((p for p in probe.module.parameters() if p.is_floating_point()), torch.empty(0))
    draw = torch.Generator().manual_seed(variant)
    with unchanged(probe.module):
        # Drawn at the full batch, so that item 0 is the same sample whatever the batch.
        sample = torch.randn((BATCH, *probe.sample_shape), generator=draw)[:batch].to(parameter)
        steps = torch.as_tensor(timestep, device=parameter.device).expand(batch)
        conditioning = probe.conditioning(batch, condition) if conditioning is None else conditioning
        return call_denoiser(lambda: probe.run(sample, steps, **conditioning), sample, step_name(timestep))


def smaller(probe: Probe) -> Probe:
    """``probe`` with images of a quarter of their sides, if the denoiser takes such: structure does not follow size.

    Sides stay at least :data:`SMALLEST`: layers that see a single pixel look constant.
    """
    channels, *sides = probe.sample_shape
    if len(sides) != 2 or min(sides) < 2 * SMALLEST:
        return probe
    factor = min(4, min(sides) // SMALLEST)
    small = replace(probe, sample_shape=(channels, *(side // factor for side in sides)))
    try:
        output = run_example(small, probe.timesteps[0], batch=1)
    except SHAPE_ERRORS:
        return probe
    return small if output.shape[-2:] == small.sample_shape[1:] else probe


def fingerprint(x: Tensor) -> bytes:
    """blake2b (16 bytes) of a tensor's shape and bytes; any shape and dtype."""
    data = x.detach().contiguous().reshape(-1).view(torch.uint8).cpu().numpy().tobytes()
    return hashlib.blake2b(str(tuple(x.shape)).encode() + data, digest_size=16).digest()
