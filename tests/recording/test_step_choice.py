from types import SimpleNamespace

import pytest
import torch

from tempoquant.calibration.range_observer import RangeObserver
from tempoquant.errors import InputError
from tempoquant.intervals import Clock
from tempoquant.randomness import rng
from tempoquant.recipe import Recipe
from tempoquant.recording.step_choice import range_rows, reconstruction_rows, skewed_normal_steps


def recipe(**calibration):
    return Recipe.parse({"method": "ptq4dm", "calibration": calibration})


def recorded(steps=20, samples=30):
    """What step choices read of a recording: the noisiest step first."""
    return SimpleNamespace(steps=steps, samples=samples, timesteps=torch.arange(steps - 1, -1, -1) * 50)


def test_draws_are_normal_around_the_mean_counted_from_the_cleanest_step():
    steps = skewed_normal_steps(20_000, 1000, 0.3, 0.1, rng("draws"))
    time = (999 - steps).double()
    assert float(time.mean()) == pytest.approx(300 - 0.5, abs=3) and float(time.std()) == pytest.approx(100, abs=3)


def test_draws_beyond_the_schedule_are_clamped_to_its_ends():
    steps = skewed_normal_steps(20_000, 10, 0.5, 1.0, rng("draws"))
    # P(t < 0.1) = Phi(-0.4) = 0.3446, and P(t >= 0.9) is the same.
    share = torch.bincount(steps, minlength=10).double() / 20_000
    assert float(share[9]) == pytest.approx(0.3446, abs=0.015) and float(share[0]) == pytest.approx(0.3446, abs=0.015)


def test_rows_for_weights_come_from_the_chosen_steps():
    store = recorded()
    even, _ = reconstruction_rows(store, recipe(rows=40))
    assert torch.bincount(even, minlength=20).tolist() == [2] * 20
    skewed, samples = reconstruction_rows(
        store, recipe(rows=400, step_choice="skewed-normal", step_mean=0.2, step_std=0.2)
    )
    assert skewed.shape == samples.shape == (400,) and samples.max() < 30
    time = store.timesteps[skewed] / 1000
    # Clamping at 0 moves the mean of Normal(0.2, 0.2) up to 0.2 + 0.2 (phi(1) - 1 + Phi(1)) = 0.217; bins round down.
    assert float(time.double().mean()) == pytest.approx(0.217 - 0.025, abs=0.02)


def test_rows_for_ranges_are_as_many_and_of_the_chosen_steps():
    store = recorded()
    clock = Clock(store.timesteps, 1, "t")
    even = list(range_rows(store, clock, recipe(rows_per_step=8)))
    assert [(row, step, len(samples)) for row, step, samples in even] == [(r, 19 - r, 8) for r in range(20)]
    choice = {"step_choice": "skewed-normal", "step_mean": 0.2, "step_std": 0.1}
    skewed = {row: len(samples) for row, _, samples in range_rows(store, clock, recipe(rows_per_step=8, **choice))}
    assert sum(skewed.values()) <= 160 and max(skewed, key=skewed.get) in (3, 4)
    assert not set(skewed) & set(range(13, 20))


def test_choices_that_leave_nothing_to_calibrate_a_step_on_are_refused():
    with pytest.raises(InputError, match=r"step_choice = 'skewed-normal' may leave steps out.*'uniform'"):
        Recipe.parse(
            {"method": "x", "calibration": {"step_choice": "skewed-normal"}, "activations": {"steps": "per-step"}}
        )
    with pytest.raises(InputError, match=r"calibration.step_mean = 0.7"):
        recipe(step_mean=0.7)
    with pytest.raises(InputError, match="steps = 'generator' needs learn = true"):
        Recipe.parse({"method": "x", "activations": {"steps": "generator"}})


def spread(*rows):
    found = RangeObserver(("test",))
    for row, values in enumerate(rows):
        if values:
            found.observe(row, torch.tensor([values]), 1)
    return found


def test_groups_pool_their_rows_and_empty_ones_take_all():
    seen = spread([-1.0, 2.0], [-4.0, 1.0], [], [-2.0, 6.0])
    found = seen.qparams(4, "minmax", [0, 0, 1, 3], 4)
    # Ranges -4..2, nothing, nothing, -2..6: 15 steps each; the second and third take -4..6.
    assert found.scale.tolist() == pytest.approx([6 / 15, 10 / 15, 10 / 15, 8 / 15])
    assert found.zero_point.tolist() == [10, 6, 6, 4]


@pytest.mark.parametrize("search", ["minmax", "mse", "percentile"])
def test_symmetric_grids_have_their_zero_in_the_middle(search):
    found = spread([-1.0, 3.5]).qparams(4, search, [0], 1, symmetric=True)
    assert found.zero_point.tolist() == [8] and (found.q_min, found.q_max) == (0, 15)
    if search == "minmax":
        assert found.scale.tolist() == [0.5]
    softmax = RangeObserver(("test",), always_zero=True)
    softmax.observe(0, torch.tensor([[0.0, 1.5]]), 1)
    assert softmax.qparams(4, "minmax", [0], 1, symmetric=True).zero_point.tolist() == [0]
