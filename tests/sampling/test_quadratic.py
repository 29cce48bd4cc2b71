"""The quadratic DDIM schedule against a hand-written loop in float64."""

import copy
from dataclasses import replace

import numpy as np
import pytest
import torch
from diffusers import DDIMScheduler

from tempoquant.sampling.noise import noise
from tempoquant.sampling.quadratic import QuadraticDDIMScheduler, quadratic_steps
from tempoquant.sampling.sampling import sample
from tempoquant.sampling.schedulers import build_scheduler, set_steps


def test_the_steps_of_cifar_10():
    steps = quadratic_steps(1000, 100)
    assert len(steps) == 100 and len(set(steps)) == 96
    assert steps.count(0) == 4 and steps.count(2) == 2 and steps == sorted(steps)
    # k = 50: 50^2 * 800 / 99^2 = 204.06...; k = 99: all of 800.
    assert (steps[50], steps[99]) == (204, 800)


def by_hand(x: np.ndarray, betas: np.ndarray, steps: list[int]) -> np.ndarray:
    """Song et al. 2021, eq. 12 with sigma = 0, for eps = 0.5 x + t / 1000; alpha bar is 1 past the end."""
    bar = np.cumprod(1 - betas)
    for t, before in zip(reversed(steps), [*reversed(steps[:-1]), None], strict=True):
        eps, after = 0.5 * x + t / 1000, 1.0 if before is None else bar[before]
        x0 = (x - np.sqrt(1 - bar[t]) * eps) / np.sqrt(bar[t])
        x = np.sqrt(after) * x0 + np.sqrt(1 - after) * eps
    return x


@pytest.mark.parametrize(("count", "repeats"), [(4, 0), (30, 3)])
def test_it_follows_the_formula_in_float64(toy, count, repeats):
    steps = [int(t) for t in np.linspace(0, np.sqrt(80.0), count) ** 2]
    assert steps.count(0) == 1 + repeats
    drawn = sample(toy, samples=1, steps=count, seed=5, sampler="ddim-quadratic")
    expected = by_hand(noise((1, 4, 4), 5, 0).double().numpy(), np.linspace(0.0001, 0.02, 100), steps)
    np.testing.assert_allclose(drawn[0].numpy(), expected, rtol=1e-4, atol=1e-5)
    # A previous step at the mean distance, as diffusers takes it, is something else.
    assert np.abs(sample(toy, samples=1, steps=count, seed=5, sampler="ddim")[0].numpy() - expected).max() > 1e-2


def test_a_repeated_step_changes_nothing_and_the_last_one_ends_clean():
    scheduler = build_scheduler(DDIMScheduler(num_train_timesteps=100, clip_sample=False), "ddim-quadratic")
    set_steps(scheduler, 30)
    assert scheduler.timesteps[-5:].tolist() == [1, 0, 0, 0, 0]
    x, eps = torch.randn(2, 1, 4, 4).unbind()
    for _ in range(3):
        torch.testing.assert_close(scheduler.step(eps, torch.tensor(0), x).prev_sample, x)
    bar = 1 - 0.0001
    torch.testing.assert_close(scheduler.step(eps, 0, x).prev_sample, (x - (1 - bar) ** 0.5 * eps) / bar**0.5)


@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction", "sample"])
def test_respaced_to_uniform_steps_it_is_diffusers_ddim(monkeypatch, prediction):
    monkeypatch.setattr("tempoquant.sampling.quadratic.quadratic_steps", lambda train, steps: [0, 25, 50, 75])
    plain = DDIMScheduler(num_train_timesteps=100, prediction_type=prediction, set_alpha_to_one=False)
    ours = QuadraticDDIMScheduler.from_config(plain.config)
    x, y = torch.randn(1, 1, 4, 4), None
    for scheduler in (plain, ours):
        scheduler.set_timesteps(4)
        z, draw = x, torch.Generator().manual_seed(0)
        for t in scheduler.timesteps:
            z = scheduler.step(0.3 * z, t, z, eta=0.7, generator=draw).prev_sample
        y = z if y is None else y
    assert torch.equal(y, z) and not torch.equal(y, x)


def test_training_offset_and_the_models_own_alphas_are_kept(toy):
    stable = DDIMScheduler(num_train_timesteps=100, steps_offset=1, clip_sample=False, set_alpha_to_one=False)
    scheduler = build_scheduler(stable, "ddim-quadratic")
    set_steps(scheduler, 4)
    assert scheduler.timesteps.tolist() == [t + 1 for t in (80, 35, 8, 0)]
    assert torch.equal(scheduler.alphas_cumprod, stable.alphas_cumprod)
    before = copy.deepcopy(scheduler)
    drawn = sample(replace(toy, scheduler=stable), samples=2, steps=4, seed=0, sampler="ddim-quadratic")
    assert torch.isfinite(drawn).all() and before._position is None
