"""Initial noise and step noise of sample ``index``, keyed by (seed, index) alone so that no batch size changes it."""

from collections.abc import Sequence

import torch
from torch import Tensor

from tempoquant.errors import InputError
from tempoquant.limits import MOST
from tempoquant.randomness import rng


def noise(shape: Sequence[int], seed: int, index: int) -> Tensor:
    """Initial noise of sample ``index``: standard normal, float32, of ``shape`` (one sample, no batch)."""
    return torch.randn(tuple(shape), generator=rng("noise", seed, index))


def noise_batch(shape: Sequence[int], seed: int, indices: Sequence[int]) -> Tensor:
    """Initial noise of several samples: (len(indices), *shape)."""
    return torch.stack([noise(shape, seed, index) for index in indices])


def step_generators(seed: int, indices: Sequence[int]) -> list[torch.Generator]:
    """One generator a sample for the noise that a stochastic sampler adds at its steps."""
    return [rng("step noise", seed, index) for index in indices]


def pipeline_generators(seed: int, indices: Sequence[int]) -> list[torch.Generator]:
    """One generator a sample for a diffusers pipeline that draws its own noise; its first draw is :func:`noise`."""
    return [rng("noise", seed, index) for index in indices]


def sample_indices(samples: int | Sequence[int]) -> list[int]:
    """Which samples: the first ``samples``, or exactly those named.

    Raises:
        InputError: so many that their indices alone would fill the memory.
    """
    if isinstance(samples, int) and samples > MOST:
        raise InputError(f"samples {samples} is out of range: at most {MOST}")
    return list(range(samples)) if isinstance(samples, int) else [int(index) for index in samples]
