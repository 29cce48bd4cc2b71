"""Denoisers that fail while a sample is drawn: the error names the step, and their own one is its cause."""

import functools
from dataclasses import replace

import pytest
import torch
from diffusers import DDPMScheduler
from torch import nn

from tempoquant.errors import InputError
from tempoquant.pipelines import resolve
from tempoquant.sampling.denoiser import Denoiser, plain_call
from tempoquant.sampling.sampling import sample


def raises(x):
    raise ZeroDivisionError("half of nothing")


@pytest.fixture
def failing(toy):
    """``f(made)``: the toy denoiser, whose prediction is ``made(prediction)`` from the second step on."""

    def failing(made) -> Denoiser:
        calls = iter(range(100))

        def call(module, x, t, **given):
            prediction = toy.call(module, x, t, **given)
            return made(prediction) if next(calls) > 0 else prediction

        return replace(toy, call=call)

    return failing


@pytest.mark.parametrize(
    ("made", "line"),
    [
        (raises, r"raises ZeroDivisionError at step 1 \(t = 33\): half of nothing"),
        (lambda x: None, r"returns a NoneType at step 1 \(t = 33\): a float32 tensor of shape .* is expected"),
        (lambda x: torch.cat([x, x], 1), r"returns a float32 tensor of shape .* at step 1 \(t = 33\)"),
        (lambda x: x[:, :, :-1], r"returns a float32 tensor of shape .* at step 1 \(t = 33\)"),
        (lambda x: x.double(), r"returns a float64 tensor of shape .* at step 1 \(t = 33\)"),
    ],
)
def test_the_step_is_named(failing, made, line):
    with pytest.raises(InputError, match=f"^the denoiser {line}") as caught:
        sample(failing(made), samples=2, steps=3, seed=0)
    assert "\n" not in str(caught.value)
    assert (made is not raises) or isinstance(caught.value.__cause__, ZeroDivisionError)


def test_a_learned_variance_comes_beside_the_prediction(toy):
    scheduler = DDPMScheduler(num_train_timesteps=1000, variance_type="learned_range")

    def call(module, x, t, **given):
        return toy.call(module, x, t, **given).repeat(1, 2, 1, 1)

    drawn = sample(replace(toy, scheduler=scheduler, call=call), samples=1, steps=2, seed=0)
    assert drawn.shape[1:] == toy.sample_shape


@pytest.mark.parametrize(
    ("made", "line"),
    [
        (raises, r"raises ZeroDivisionError at step 1 \(t = \d+\): half of nothing"),
        (lambda x: (None,), r"returns a NoneType at step 1 \(t = \d+\): a float32 tensor of shape \(4, 4, 4, 4\)"),
        (lambda x: (x[..., :1],), r"returns a float32 tensor of shape \(4, 8, 4, 1\) at step 1 \(t = \d+\)"),
    ],
)
def test_the_step_of_a_pipeline_is_named(dit_pipe, made, line, monkeypatch):
    calls, forward = iter(range(100)), dit_pipe.transformer.forward

    @functools.wraps(forward)
    def failing(*args, **kwargs):
        output = forward(*args, **kwargs)
        return made(output[0]) if next(calls) > 0 else output

    monkeypatch.setattr(dit_pipe.transformer, "forward", failing)
    with pytest.raises(InputError, match=f"^the denoiser {line}") as caught:
        resolve(dit_pipe).generate(2, steps=3, seed=0, conditioning={"class_labels": [0, 1], "guidance_scale": 2.0})
    assert (made is not raises) or isinstance(caught.value.__cause__, ZeroDivisionError)
    assert not dit_pipe.transformer._forward_hooks and not dit_pipe.transformer._forward_pre_hooks


def test_an_error_of_another_part_of_the_pipeline_stays_its_own(dit_pipe, monkeypatch):
    monkeypatch.setattr(dit_pipe.vae, "decode", raises)
    with pytest.raises(ZeroDivisionError):
        resolve(dit_pipe).generate(1, steps=2, seed=0, conditioning={"class_labels": [0]})


def test_what_a_prediction_may_come_wrapped_in():
    class Returns(nn.Module):
        def forward(self, x, t):
            return self.wrap(x + 1)

    module, x = Returns(), torch.zeros(1, 2)
    for wrap in (lambda y: y, lambda y: (y, "more"), lambda y: [y], lambda y: {"sample": y}):
        module.wrap = wrap
        assert torch.equal(plain_call(module, x, torch.zeros(1)), x + 1)
    for nothing in (None, (), {}):
        module.wrap = lambda y, nothing=nothing: nothing
        assert plain_call(module, x, torch.zeros(1)) == nothing
