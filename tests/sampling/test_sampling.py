from dataclasses import replace

import numpy as np
import pytest
import torch

from tempoquant.errors import InputError, NumericsError
from tempoquant.pipelines import state_hash, to_images
from tempoquant.sampling.noise import noise
from tempoquant.sampling.sampling import sample
from tempoquant.sampling.schedulers import SAMPLERS, build_scheduler, set_steps


def test_noise_depends_on_seed_and_index_alone():
    assert torch.equal(noise((1, 4, 4), 3, 7), noise((1, 4, 4), 3, 7))
    assert not torch.equal(noise((1, 4, 4), 3, 7), noise((1, 4, 4), 3, 8))
    assert not torch.equal(noise((1, 4, 4), 3, 7), noise((1, 4, 4), 4, 7))
    assert abs(float(noise((3, 64, 64), 0, 0).std()) - 1) < 0.02


def test_ddim_agrees_with_the_formula_in_float64(toy):
    drawn = sample(toy, samples=1, steps=4, seed=5)
    betas = np.linspace(0.0001, 0.02, 100)
    bar = np.cumprod(1 - betas)
    x = noise((1, 4, 4), 5, 0).double().numpy()
    # Song et al. 2021, eq. 12 with sigma = 0; leading spacing: t = 75, 50, 25, 0, and alpha bar is 1 past the end.
    for t, before in ((75, bar[50]), (50, bar[25]), (25, bar[0]), (0, 1.0)):
        eps = 0.5 * x + t / 1000
        x0 = (x - np.sqrt(1 - bar[t]) * eps) / np.sqrt(bar[t])
        x = np.sqrt(before) * x0 + np.sqrt(1 - before) * eps
    np.testing.assert_allclose(drawn[0].numpy(), x, rtol=1e-4, atol=1e-5)
    assert not drawn.is_inference()


@pytest.mark.parametrize(("sampler", "eta"), [*((name, 0.0) for name in SAMPLERS), ("ddim", 1.0), (None, 0.5)])
def test_batch_size_and_choice_of_samples_change_nothing(toy, sampler, eta):
    options = {"steps": 5, "seed": 1, "sampler": sampler, "eta": eta}
    together = sample(toy, samples=5, batch_size=5, **options)
    apart = sample(toy, samples=5, batch_size=2, **options)
    some = sample(toy, samples=[3, 1], **options)
    assert torch.equal(together, apart)
    assert torch.equal(some, together[[3, 1]])


def test_step_noise_of_a_stochastic_sampler_is_not_the_initial_noise(toy):
    still, moved = (sample(toy, samples=2, steps=5, seed=1, eta=eta) for eta in (0.0, 1.0))
    assert not torch.equal(still, moved)
    assert not torch.equal(moved[0] - still[0], moved[1] - still[1])


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_a_saved_and_loaded_scheduler_makes_the_same_samplers(toy, sampler, tmp_path):
    toy.scheduler.save_pretrained(tmp_path)
    loaded = replace(toy, scheduler=type(toy.scheduler).from_pretrained(tmp_path))
    assert torch.equal(*(sample(d, samples=2, steps=4, seed=0, sampler=sampler) for d in (toy, loaded)))


def test_observer_sees_every_call_of_plms(toy):
    calls = []
    sample(
        toy, samples=3, steps=4, seed=0, sampler="plms", batch_size=2, step_callback=lambda *call: calls.append(call)
    )
    assert [k for k, *_ in calls] == [*range(5), *range(5)]
    assert [int(t[0]) for _, t, *_ in calls[:5]] == [75, 50, 50, 25, 0]
    assert [indices.tolist() for _, _, indices, *_ in calls[::5]] == [[0, 1], [2]]
    _, t, indices, x, prediction = calls[0]
    assert t.shape == indices.shape == (2,)
    assert torch.equal(x[1], noise((1, 4, 4), 0, 1))
    assert torch.equal(prediction, 0.5 * x + 0.075)


def test_conditioning_rows_follow_their_samples(toy):
    shift = torch.tensor([0.0, 1.0, 2.0])
    together = sample(toy, samples=3, steps=3, seed=0, conditioning={"shift": shift}, batch_size=2)
    alone = sample(toy, samples=[2], steps=3, seed=0, conditioning={"shift": shift[2:]})
    assert torch.equal(together[2:], alone)
    with pytest.raises(InputError, match=r"conditioning 'shift' is \(3,\): a tensor with 2 rows"):
        sample(toy, samples=2, steps=3, seed=0, conditioning={"shift": shift})


def test_nan_names_its_step(toy):
    def broken(module, x, t, **conditioning):
        return torch.where(t.reshape(-1, 1, 1, 1) == 25, torch.nan, module(x, t))

    toy.call = broken
    # PLMS asks at t = 75, 50, 50, 25, 0.
    with pytest.raises(NumericsError, match=r"not finite at step 3 \(t = 25\)"):
        sample(toy, samples=1, steps=4, seed=0, sampler="plms")


def test_module_modes_are_restored(toy):
    toy.module.train()
    modes = []
    sample(toy, samples=1, steps=1, seed=0, step_callback=lambda *_: modes.append(toy.module.training))
    assert modes == [False] and toy.module.training


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"steps": 0}, "steps 0 is out of range: this schedule takes 1 to 100"),
        ({"steps": 101}, "steps 101 is out of range"),
        ({"eta": 1.5}, "eta 1.5 is out of range: 0 to 1"),
        ({"eta": 0.5, "sampler": "dpm++"}, "DPMSolverMultistepScheduler has no eta"),
        ({"sampler": "dpm"}, "unknown sampler 'dpm': did you mean"),
        ({"samples": 0}, "samples 0"),
        ({"samples": [-1]}, "sample index -1"),
        ({"batch_size": 0}, "batch size 0"),
    ],
)
def test_bad_values_are_one_line(toy, change, message):
    with pytest.raises(InputError, match=message.replace("+", r"\+")) as caught:
        sample(toy, **{"samples": 1, "steps": 2, "seed": 0, **change})
    assert "\n" not in str(caught.value)


def test_build_scheduler_leaves_the_models_own_alone(toy):
    fresh = build_scheduler(toy.scheduler)
    set_steps(fresh, 7)
    assert len(fresh.timesteps) == 7 and len(toy.scheduler.timesteps) == 100
    assert build_scheduler(toy.scheduler, "plms").config.num_train_timesteps == 100


def test_to_images_rounds_to_the_nearest_level():
    x = torch.tensor([-2.0, -1.0, 0.0039, 1.0]).reshape(1, 1, 2, 2)
    assert to_images(x).shape == (1, 2, 2, 1)
    # (0.0039 + 1) * 127.5 = 127.997
    assert to_images(x).flatten().tolist() == [0, 0, 128, 255]


def test_state_hash_sees_one_bit_and_any_type(toy):
    before = state_hash(toy.module)
    assert before == state_hash(toy.module) and len(before) == 32
    toy.module.bfloat16()
    assert state_hash(toy.module) != before
