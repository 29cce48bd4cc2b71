"""Which recorded steps calibrate: all alike, or more of those close to the image."""

from collections.abc import Iterator

import torch
from torch import Tensor

from tempoquant.intervals import Clock
from tempoquant.randomness import rng
from tempoquant.recipe import Calibration, Recipe
from tempoquant.recording.store import Store


def skewed_normal_steps(count: int, steps: int, mean: float, std: float, draws: torch.Generator) -> Tensor:
    """Step indices (0 the noisiest) of ``count`` draws of NDTC (PTQ4DM, Shang et al., CVPR 2023).

    ``t_i ~ Normal(mean, std) K`` rounded down and clamped to [0, K - 1], where 0 is the cleanest of the K steps. The
    public code compares ``t_i`` with a loop that counts from the noisiest step; here it means the state at time t.
    """
    position = torch.normal(mean, std, (count,), generator=draws) * steps
    return steps - 1 - position.floor().clamp(0, steps - 1).long()


def reconstruction_rows(store: Store, recipe: Recipe) -> tuple[Tensor, Tensor]:
    """Recorded (step, sample) pairs that units are reconstructed on: samples drawn at random, steps by choice."""
    count, steps, choice = recipe.calibration.rows, store.steps, recipe.calibration
    draw = rng(recipe.seed, "reconstruction rows")
    if choice.step_choice == "uniform":
        chosen = (torch.arange(count) * steps) // count if count <= steps else torch.arange(count) % steps
    else:
        chosen = _skewed(choice, count, steps, recipe.seed, "reconstruction steps").sort().values
    samples = torch.cat([torch.randperm(store.samples, generator=draw) for _ in range(-(-count // store.samples))])
    return chosen, samples[:count]


def range_rows(store: Store, clock: Clock, recipe: Recipe) -> Iterator[tuple[int, int, Tensor]]:
    """What activation ranges are read from: (row of the clock, step, samples) in ascending order of rows.

    ``rows_per_step`` samples of every row; or, drawn steps, as many altogether: rows that no draw hits are left out.
    """
    first = [int((clock.rows(store.timesteps) == row).nonzero()[0]) for row in range(len(clock))]
    samples_a_row = recipe.calibration.rows_per_step
    counts = [samples_a_row] * len(clock)
    if recipe.calibration.step_choice != "uniform":
        steps = _skewed(recipe.calibration, samples_a_row * len(clock), store.steps, recipe.seed, "range steps")
        counts = clock.rows(store.timesteps[steps]).bincount(minlength=len(clock)).tolist()
    for row, count in enumerate(counts):
        if count:
            draw = rng(recipe.seed, "activation rows", row)
            samples = torch.randperm(store.samples, generator=draw)[:count].sort().values
            yield row, first[row], samples


def _skewed(choice: Calibration, count: int, steps: int, seed: int, purpose: str) -> Tensor:
    return skewed_normal_steps(count, steps, choice.step_mean, choice.step_std, rng(seed, purpose))
