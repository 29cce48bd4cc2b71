"""Denoisers whose output is no function of their inputs are refused, and what they do is named."""

from itertools import count

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from graph_models import Plain, probe_of
from tempoquant.errors import InputError
from tempoquant.graph import read_denoiser


class DropsOut(nn.Module):
    """Dropout that evaluation mode does not turn off."""

    def forward(self, x: Tensor) -> Tensor:
        return F.dropout(x, 0.1, training=True)


class DrawsNoise(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x + 0.01 * torch.randn_like(x)


class Counts(nn.Module):
    """Adds the number of its call: no random number is drawn."""

    def __init__(self) -> None:
        super().__init__()
        self.calls = count(1)

    def forward(self, x: Tensor) -> Tensor:
        return x + 0.01 * next(self.calls)


@pytest.mark.parametrize("part", [DropsOut, DrawsNoise, Counts])
def test_the_module_that_gives_two_outputs_for_one_input_is_named(part):
    inside = nn.Sequential(nn.Conv2d(4, 4, 1), part(), nn.Conv2d(4, 4, 1))
    line = rf"^the denoiser's 'image\.1' \({part.__name__}\) gives two outputs for one input at time step 10, "
    with pytest.raises(InputError, match=line):
        read_denoiser(probe_of(Plain(image=inside)))


def test_noise_that_the_denoiser_itself_draws():
    with pytest.raises(InputError, match=r"^the denoiser gives two outputs for one input at time step 10, .* noise"):
        read_denoiser(probe_of(Plain(middle=lambda h: h + torch.randn(h.shape[-1]))))


def test_noise_at_late_time_steps_alone():
    class Late(Plain):
        def forward(self, x: Tensor, t: Tensor) -> Tensor:
            return super().forward(x, t) + torch.rand(()) * (t > 10)[:, None, None, None]

    with pytest.raises(InputError, match="at time step 500, in evaluation mode"):
        read_denoiser(probe_of(Late()))


def test_noise_of_no_weight_is_no_noise():
    read_denoiser(probe_of(Plain(middle=lambda h: h + 0 * torch.randn(h.shape[-1]))))


def test_a_sample_changed_in_place():
    class Scales(Plain):
        def forward(self, x: Tensor, t: Tensor) -> Tensor:
            return super().forward(x.mul_(0.5), t)

    with pytest.raises(InputError, match=r"^the denoiser changes its sample in place: let it change a copy"):
        read_denoiser(probe_of(Scales()))


def test_a_condition_changed_in_place():
    class Masks(Plain):
        def forward(self, x: Tensor, t: Tensor, *, y: Tensor) -> Tensor:
            y.data[:, 0] = 0
            return super().forward(x, t) + y.mean()

    with pytest.raises(InputError, match=r"^the denoiser changes its y in place"):
        read_denoiser(probe_of(Masks(), conditioning=lambda batch, variant: {"y": torch.ones(batch, 3)}))


class Returns(Plain):
    """What it returns is ``made(prediction)``."""

    def __init__(self, made) -> None:
        super().__init__()
        self.made = made

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        return self.made(super().forward(x, t))


def no_prediction(x: Tensor) -> Tensor:
    raise ValueError("no such width\nand more")


@pytest.mark.parametrize(
    ("made", "line"),
    [
        (no_prediction, "raises ValueError at time step 10: no such width"),
        (lambda x: None, r"returns a NoneType at time step 10: a float32 tensor of shape \(2, 4, 4, 4\) is expected"),
        (lambda x: x[..., :3], r"returns a float32 tensor of shape \(2, 4, 4, 3\) at time step 10: .* is expected"),
        (lambda x: x.flatten(2), r"returns a float32 tensor of shape \(2, 4, 16\) at time step 10"),
        (lambda x: x[:1], r"returns a float32 tensor of shape \(1, 4, 4, 4\) at time step 10"),
        (Tensor.double, r"returns a float64 tensor of shape \(2, 4, 4, 4\) at time step 10"),
        (Tensor.long, r"returns a int64 tensor of shape \(2, 4, 4, 4\) at time step 10"),
    ],
)
def test_what_is_no_prediction_is_refused_in_one_line(made, line):
    module = Returns(made)
    probe = probe_of(module, run=lambda x, t: module(x, t))
    with pytest.raises(InputError, match=f"^the denoiser {line}$|^the denoiser {line}") as caught:
        read_denoiser(probe)
    assert "\n" not in str(caught.value)
    assert (made is not no_prediction) or isinstance(caught.value.__cause__, ValueError)
