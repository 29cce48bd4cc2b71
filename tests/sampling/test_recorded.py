"""A run that leaves the calibrated time steps says so once, and says how far."""

import warnings
from dataclasses import replace

import pytest
import torch

import tempoquant
from conditional_models import text_pipeline
from tempoquant.sampling.sampling import sample
from tiny import bare_denoiser, small_recipe, unet_pipeline


def said(run) -> list[str]:
    """The warnings of a run."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        run()
    return [str(warning.message) for warning in caught]


@pytest.fixture
def recorded(toy):
    return replace(toy, recorded=torch.tensor([0.0, 25.0, 50.0, 75.0]))


@pytest.mark.parametrize(("sampler", "steps"), [("ddim", 4), ("plms", 4), ("ddim", 2), ("ddim", 1)])
def test_recorded_steps_are_silent(recorded, sampler, steps):
    # PLMS visits 50 twice; two DDIM steps are 50 and 0.
    assert said(lambda: sample(recorded, samples=3, batch_size=1, steps=steps, seed=0, sampler=sampler)) == []


def test_the_worst_step_and_its_distance_are_named_once(recorded, toy):
    # 0, 33, 66: 33 is 8 from 25 and 66 is 9 from 75.
    found = said(lambda: sample(recorded, samples=3, batch_size=1, steps=3, seed=0))
    assert len(found) == 1 and "\n" not in found[0]
    assert "2 of this run's 3 time steps were not calibrated" in found[0]
    assert found[0].endswith("nearest of 4 recorded ones: the farthest, t = 66, is 9 away from t = 75")
    assert said(lambda: sample(toy, samples=1, steps=3, seed=0)) == []


def test_a_repeated_step_counts_once(recorded):
    # Four of the thirty steps are 0.
    found = said(lambda: sample(recorded, samples=1, steps=30, seed=0, sampler="ddim-quadratic"))
    assert len(found) == 1 and " of this run's 27 time steps" in found[0]
    quadratic = replace(recorded, recorded=torch.tensor([0.0, 8.0, 35.0, 80.0]))
    assert said(lambda: sample(quadratic, samples=1, steps=4, seed=0, sampler="ddim-quadratic")) == []


@pytest.mark.parametrize("method", ["tfmq-dm", "tfmq-cache"])
def test_a_quantized_pipeline_warns_before_and_after_loading(method, tmp_path):
    made = tempoquant.quantize(unet_pipeline(), small_recipe(method), out=tmp_path / "out")
    for quantized in (made, tempoquant.load(tmp_path / "out")):
        assert said(lambda q=quantized: q.generate(1, steps=4, seed=0)) == []
        # 0, 20, 40, 60, 80.
        assert "t = 40, is 10 away from t = 50" in said(lambda q=quantized: q.model.generate(1, steps=5, seed=0))[0]


def test_without_tables_every_step_is_as_good():
    made = tempoquant.quantize(bare_denoiser(), small_recipe("rtn"))
    assert said(lambda: made.generate(1, steps=5, seed=0)) == []


def test_a_prompted_pipeline_warns_too(tmp_path):
    pipe, prompt = text_pipeline(tmp_path), {"prompt": ["a", "b"]}
    made = tempoquant.quantize(pipe, small_recipe(), conditioning=prompt)
    assert said(lambda: made.generate(2, steps=4, seed=0, conditioning=prompt)) == []
    found = said(lambda: made.generate(2, steps=5, seed=0, batch_size=1, conditioning=prompt))
    assert len(found) == 1 and "10 away" in found[0]


def test_a_quadratic_schedule_quantizes_with_a_row_a_unique_step(tmp_path):
    recipe = small_recipe(calibration={"steps": 30, "sampler": "ddim-quadratic"})
    made = tempoquant.quantize(bare_denoiser(), recipe, out=tmp_path / "out")
    assert len(made.clock) == 27 and made.clock.timesteps[:3].tolist() == [0, 1, 2]
    again = tempoquant.load(tmp_path / "out", denoiser=bare_denoiser(seed=3))
    run = {"steps": 30, "seed": 0, "sampler": "ddim-quadratic"}
    assert torch.equal(made.generate(1, **run), again.generate(1, **run))
    assert said(lambda: again.generate(1, **run)) == []
