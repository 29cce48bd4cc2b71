"""Error-compensated and learned rounding with scales by group of inputs."""

import pytest
import torch
from torch import nn

from tempoquant.layers import to_quantized
from tempoquant.numerics import nearest, over_rows, weight_qparams
from tempoquant.randomness import rng
from tempoquant.reconstruction.gptq import Moments, compensated_rounding, fitted_scale
from tempoquant.reconstruction.rounding import SoftRounding
from tempoquant.reconstruction.unit import LayerRounding, compensate, compensate_about_mean

GROUPS = 4


@pytest.fixture
def problem():
    """A weight (12, 96), its grid, and inputs of two streams (300, 96) whose channels follow each other."""
    weight = torch.randn(12, 96, generator=rng("weight"))
    full = torch.randn(300, 10, generator=rng("x")) @ torch.randn(10, 96, generator=rng("mix"))
    full = full + 0.3 * torch.randn(300, 96, generator=rng("noise"))
    quantized = full + 0.05 * torch.randn(300, 96, generator=rng("quantized"))
    return weight, weight_qparams(weight, 3, False, "mse", GROUPS), quantized, full


def error(weight, integers, scale, quantized, full):
    """The mean squared error of the output in float64."""
    rounded = integers.double() * over_rows(scale, weight.shape[1]).double()
    return float((full.double() @ weight.double().T - quantized.double() @ rounded.T).square().mean())


def test_compensation_and_fitted_scales_each_lower_the_error(problem):
    weight, grid, quantized, full = problem
    moments = Moments.of(weight, quantized, full)
    plain, compensated = nearest(weight, grid), compensated_rounding(weight, moments, grid)
    zero = over_rows(grid.zero_point, 96)
    assert ((compensated + zero) >= 0).all() and ((compensated + zero) <= 7).all()
    fitted = fitted_scale(weight, compensated, moments, grid.scale)
    errors = [
        error(weight, integers, scale, quantized, full)
        for integers, scale in ((plain, grid.scale), (compensated, grid.scale), (compensated, fitted))
    ]
    assert errors[2] < errors[1] < 0.7 * errors[0]
    assert error(weight, plain, fitted_scale(weight, plain, moments, grid.scale), quantized, full) < errors[0]


def test_fitted_scales_are_the_joint_least_squares_solution():
    # Inputs that hardly follow each other: passes over the groups then reach the solution.
    weight, x = torch.randn(5, 32, generator=rng(1)), torch.randn(400, 32, generator=rng(2))
    grid = weight_qparams(weight, 4, False, "minmax", 2)
    integers = nearest(weight, grid)
    fitted = fitted_scale(weight, integers, Moments.of(weight, x, None), grid.scale)
    for channel in range(5):
        columns = (x.double() * integers[channel].double()).view(400, 2, 16).sum(2)
        target = x.double() @ weight[channel].double()
        expected = torch.linalg.lstsq(columns, target[:, None]).solution[:, 0]
        torch.testing.assert_close(fitted[channel].double(), expected, rtol=1e-4, atol=0)


def test_equal_groups_round_as_one_does(problem):
    weight, _, quantized, full = problem
    one = weight_qparams(weight, 4, False, "minmax")
    several = one.map(lambda field: field.expand(-1, GROUPS).contiguous())
    moments = Moments.of(weight, quantized, full)
    assert torch.equal(compensated_rounding(weight, moments, one), compensated_rounding(weight, moments, several))


@pytest.mark.parametrize("method", ["reconstruct", "nearest"])
def test_a_layer_and_its_bias(problem, method):
    weight, grid, quantized, full = problem
    layer = to_quantized(nn.Linear(96, 12).requires_grad_(False))
    job = LayerRounding(layer, weight, grid, quantized + 2, full + 2, 8, ("key",), method)
    plain, about_mean = compensate(job), compensate_about_mean(job)
    layer.set_weight(about_mean.integers, about_mean.qparams, 3)
    output = (quantized + 2) @ layer.dequantized_weight().T + about_mean.bias_shift
    assert (output - (full + 2) @ weight.T).mean(0).abs().max() < 1e-4
    assert plain.qparams.scale.shape == (12, GROUPS) and plain.bias_shift is None


def test_transposed_convolutions_are_compensated_on_their_own_inputs():
    torch.manual_seed(0)
    layer = to_quantized(nn.ConvTranspose2d(32, 6, 3, stride=2, padding=1).requires_grad_(False))
    x = torch.randn(4, 32, 6, 6) @ torch.randn(6, 6) + torch.randn(4, 32, 1, 1)
    weight, target = layer.weight.clone(), layer(x)
    grid = weight_qparams(layer.layout.to_rows(weight), 3, False, "mse", 2)
    errors = []
    for method in ("nearest", "reconstruct"):
        rounded = compensate(LayerRounding(layer, weight, grid, x, x, 8, ("key",), method))
        layer.set_weight(rounded.integers, rounded.qparams, 3)
        errors.append(float((layer(x) - target).square().mean()))
    assert errors[1] < 0.7 * errors[0]


def test_soft_rounding_begins_at_the_weight_and_ends_on_the_grid(problem):
    weight, grid, _, _ = problem
    layer = to_quantized(nn.Linear(96, 12))
    broadcast = layer.layout.grid(grid)
    rounding = SoftRounding(weight, broadcast)
    inside = weight.clamp(-broadcast.zero_point * broadcast.scale, (7 - broadcast.zero_point) * broadcast.scale)
    torch.testing.assert_close(rounding.weight().detach(), inside, rtol=1e-4, atol=1e-5)
    q = rounding.integers() + broadcast.zero_point
    assert (q >= 0).all() and (q <= 7).all() and torch.equal(q, q.round())
