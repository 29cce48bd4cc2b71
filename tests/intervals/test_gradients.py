"""Step-size gradients against closed forms, finite differences, and float64 automatic differentiation."""

import pytest
import torch

from tempoquant.intervals import fake_quantize
from tempoquant.layers.simulation import quantized_input
from tempoquant.numerics import QParams

X = torch.tensor([-3.0, -0.9, 0.0, 0.26, 0.74, 1.3, 9.0])


def interval(scale, zero=2, q_max=7):
    scale = torch.as_tensor(scale)
    zero, low, high = torch.tensor(float(zero)), torch.tensor(0.0), torch.tensor(float(q_max))
    return QParams(scale, zero, low, high)


def test_by_hand():
    # s = 0.5, z = 2, grid 0..7: x / s = -6, -1.8, 0, 0.52, 1.48, 2.6, 18.
    # v = -2 (clamped), -2, 0, 1, 1, 3, 5 (clamped).
    scale, x = torch.tensor(0.5, requires_grad=True), X.clone().requires_grad_()
    out = fake_quantize(x, interval(scale))
    assert out.tolist() == [-1.0, -1.0, 0.0, 0.5, 0.5, 1.5, 2.5]
    weights = torch.tensor([1.0, 10.0, 100.0, 1000.0, 1e4, 1e5, 1e6])
    (out * weights).sum().backward()
    assert x.grad.tolist() == [0.0, 10.0, 100.0, 1000.0, 1e4, 1e5, 0.0]
    by_scale = [-2.0, -2 + 1.8, 0.0, 1 - 0.52, 1 - 1.48, 3 - 2.6, 5.0]
    assert float(scale.grad) == pytest.approx(
        sum(w * g for w, g in zip(weights.tolist(), by_scale, strict=True)), rel=1e-5
    )


def test_forward_is_bit_equal_to_what_simulation_multiplies():
    x = torch.randn(64, 33, generator=torch.Generator().manual_seed(0)) * 3
    for scale in (torch.tensor(0.0371), torch.rand(64, 1, generator=torch.Generator().manual_seed(1)) / 10 + 0.01):
        found = interval(scale, zero=117, q_max=255)
        assert torch.equal(fake_quantize(x, found), quantized_input(x, found) * found.output_scale)


def test_where_all_is_clamped_the_gradient_is_the_derivative():
    x, step = torch.tensor([-50.0, -20.0, 30.0, 44.0]), 1e-3
    scale = torch.tensor(0.5, requires_grad=True)
    fake_quantize(x, interval(scale)).square().sum().backward()
    high, low = (fake_quantize(x, interval(0.5 + d)).double().square().sum() for d in (step, -step))
    assert float(scale.grad) == pytest.approx(float((high - low) / (2 * step)), rel=1e-3)


def test_one_scale_an_item_against_float64_automatic_differentiation():
    draws = torch.Generator().manual_seed(3)
    x, weights = torch.randn(5, 4, 6, generator=draws) * 2, torch.randn(5, 4, 6, generator=draws)
    scale = torch.rand(5, 1, 1, generator=draws) / 2 + 0.1
    ours, exact = scale.clone().requires_grad_(), scale.double().requires_grad_()
    inputs = x.clone().requires_grad_(), x.double().requires_grad_()
    (fake_quantize(inputs[0], interval(ours, 3, 15)) * weights).sum().backward()
    units = inputs[1] / exact
    rounded = units + (units.round() - units).detach() + 3
    (exact * (rounded.clamp(0, 15) - 3) * weights).sum().backward()
    torch.testing.assert_close(ours.grad.double(), exact.grad, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(inputs[0].grad.double(), inputs[1].grad)
    assert ours.grad.shape == (5, 1, 1) and (ours.grad != 0).all()


def test_two_scales_and_a_zero_point_against_float64_automatic_differentiation():
    draws = torch.Generator().manual_seed(4)
    x, weights = torch.randn(5, 24, generator=draws) * 2, torch.randn(5, 24, generator=draws)
    start = torch.rand(5, 1, generator=draws) / 2 + 0.1, torch.rand(5, 1, generator=draws) + 0.5
    ours = [value.clone().requires_grad_() for value in (x, *start, torch.full((5, 1), 4.0))]
    exact = [value.detach().double().requires_grad_() for value in ours]
    low, high = torch.tensor(0.0), torch.tensor(15.0)
    (fake_quantize(ours[0], QParams(ours[1], ours[3], low, high, ours[2])) * weights).sum().backward()
    units = exact[0] / exact[1]
    q = (units + (units.round() - units).detach() + exact[3]).clamp(0, 15)
    (exact[2] * (q - exact[3]) * weights).sum().backward()
    for mine, theirs in zip(ours, exact, strict=True):
        torch.testing.assert_close(mine.grad.double(), theirs.grad, rtol=1e-4, atol=1e-4)
