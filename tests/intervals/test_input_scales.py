"""Scales from the input and scales of tokens: by hand, against torch's formulas, in layers and attention products."""

import numpy as np
import pytest
import torch
from torch import nn

from tempoquant.errors import InputError, TempoquantError
from tempoquant.intervals import Clock, DynamicInterval, TokenInterval
from tempoquant.layers import QuantizedProduct, attention, straight_through, straight_through_product, to_quantized
from tempoquant.numerics import QParams, quantize
from tempoquant.numerics.weights import nearest, weight_qparams


def seeded(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def integers(x, found):
    return quantize(x, found.scale, found.zero_point, found.q_min, found.q_max) - found.zero_point


def test_dynamic_by_hand():
    x = torch.tensor([[[-1.0, 0.75], [2.0, 14.0]], [[3.0, 6.0], [0.0, 7.5]]])
    tensor = DynamicInterval(4, False, False)(x)
    # An item's range is widened to contain zero: 15 steps from -1 to 14, and from 0 to 7.5.
    assert tensor.scale.shape == (2, 1, 1) and tensor.scale.flatten().tolist() == [1.0, 0.5]
    assert tensor.zero_point.flatten().tolist() == [1, 0]
    assert integers(x, tensor).tolist() == [[[-1, 1], [2, 14]], [[6, 12], [0, 15]]]
    token = DynamicInterval(4, True, True)(x)
    # max |x| / 7, zero points in the middle of 0 to 15.
    expected = torch.tensor([1, 14, 6, 7.5]) / 7
    assert token.scale.shape == (2, 2, 1) and torch.equal(token.scale.flatten(), expected)
    assert token.zero_point.unique().tolist() == [8]
    assert integers(x, token)[0].tolist() == [[-7, 5], [1, 7]]


@pytest.mark.parametrize("bits", [4, 8])
def test_symmetric_dynamic_tokens_are_torchao_s_rule(bits):
    # amax of each row over the largest integer, round to nearest, ties to even.
    x = seeded(3, 7, 40)
    scale = x.abs().amax(-1, keepdim=True) / (2 ** (bits - 1) - 1)
    expected = torch.clamp(torch.round(x / scale), -(2 ** (bits - 1)), 2 ** (bits - 1) - 1)
    provider = DynamicInterval(bits, True, True)
    assert torch.equal(integers(x, provider(x)), expected)
    assert torch.equal(provider.fake_quantize(x), expected * scale)


def test_an_items_dynamic_scale_does_not_depend_on_its_batch():
    x, provider = seeded(4, 3, 5, 5), DynamicInterval(8, False, False)
    together = provider(x).scale
    assert all(torch.equal(provider(x[i : i + 1]).scale[0], together[i]) for i in range(4))


@pytest.mark.parametrize("shape", [(6,), (5, 6), (2, 3, 6), (2, 3, 4, 6)])
def test_parameters_broadcast_against_inputs_of_any_number_of_axes(shape):
    x = seeded(*shape)
    for per_token in (False, True):
        assert integers(x, DynamicInterval(8, False, per_token)(x)).shape == shape


def test_a_dynamic_scale_needs_an_input():
    provider = DynamicInterval(8, False, False)
    assert provider.scalar_qparams() is None
    with pytest.raises(TempoquantError, match="computed once there is an input"):
        provider.current()


def tokens(clock=None):
    scale = torch.tensor([1.0, 2.0, 4.0])
    if clock is not None:
        scale = scale * torch.tensor([[1.0], [10.0]])
    return TokenInterval(QParams(scale, torch.zeros_like(scale), 0, 15), 4, clock)


def test_stored_tokens_by_hand():
    x = torch.tensor([[[3.0, 9.0], [3.0, 9.0], [3.0, 9.0]]])
    found = tokens()(x)
    assert found.scale.shape == (3, 1)
    # Ties to even: 3 / 2 = 1.5 rounds to 2, 9 / 2 = 4.5 to 4.
    assert integers(x, found).tolist() == [[[3, 9], [2, 4], [1, 2]]]


def test_stored_tokens_follow_the_time_step_of_each_item():
    clock = Clock(torch.tensor([10.0, 20.0]), 1, "t")
    provider = tokens(clock)
    with clock.at(20.0):
        assert provider(torch.zeros(4, 3, 2)).scale.flatten().tolist() == [10, 20, 40]
    with clock.at(torch.tensor([20.0, 10.0])):
        found = provider(torch.zeros(4, 5, 3, 2)).scale
        assert found.shape == (4, 1, 3, 1) and found[:, 0, 0, 0].tolist() == [10, 10, 1, 1]
        with pytest.raises(TempoquantError, match="2 time steps"):
            provider(torch.zeros(3, 3, 2))


def test_stored_tokens_of_another_number_are_refused():
    with pytest.raises(InputError, match=r"4 tokens has no stored scales, which are of 3"):
        tokens()(torch.zeros(1, 4, 2))
    with pytest.raises(TempoquantError, match="does not fit a clock"):
        TokenInterval(QParams(torch.ones(3), torch.zeros(3), 0, 15), 4, Clock(torch.tensor([1.0, 2.0]), 1, "t"))


def providers(x):
    low, high = x.amin((0, 2)).clamp(max=0), x.amax((0, 2)).clamp(min=0)
    scale = (high - low) / 255
    return {
        "dynamic": DynamicInterval(8, False, False),
        "dynamic token": DynamicInterval(8, True, True),
        "token": TokenInterval(QParams(scale, (-low / scale).round(), 0, 255), 8),
    }


@pytest.mark.parametrize("groups", [1, 3])
@pytest.mark.parametrize("kind", ["dynamic", "dynamic token", "token"])
def test_a_linear_is_exact_integer_arithmetic(kind, groups):
    layer = to_quantized(nn.Linear(48, 6))
    grid = weight_qparams(layer.weight, 4, False, "minmax", groups)
    layer.set_weight(nearest(layer.weight, grid), grid, 4)
    x = seeded(3, 5, 48) + torch.arange(5)[:, None]
    layer.input_interval = providers(x)[kind]
    found = layer.input_interval(x)
    q_x, q_w = (t.numpy().astype(np.int64) for t in (integers(x, found), layer.weight))
    expected = np.float32(0)
    for group, s_w in enumerate(layer.weight_scale.T.numpy()):
        part = slice(group * 48 // groups, (group + 1) * 48 // groups)
        acc = q_x[..., part] @ q_w[:, part].T
        expected = expected + (acc.astype(np.float32) * found.scale.numpy()) * s_w
    expected = expected + layer.bias.detach().numpy()
    np.testing.assert_array_equal(layer(x).detach().numpy(), expected)
    torch.testing.assert_close(straight_through(layer, x), layer(x), atol=1e-5, rtol=1e-5)


def test_a_convolution_pads_with_exact_zeros():
    layer = to_quantized(nn.Conv2d(3, 4, 3, padding=1))
    layer.input_interval = DynamicInterval(8, False, False)
    x = seeded(2, 3, 6, 6) + 3
    found = layer.input_interval(x)
    on_grid = (integers(x, found) * found.scale).double()
    expected = nn.functional.conv2d(on_grid, layer.weight.double(), layer.bias.double(), padding=1)
    torch.testing.assert_close(layer(x).double(), expected, atol=1e-5, rtol=1e-5)


def product(per_token):
    made = QuantizedProduct()
    kinds = {"q": per_token, "k": per_token, "v": False, "p": per_token}
    made.intervals = nn.ModuleDict({o: DynamicInterval(8, False, token) for o, token in kinds.items()})
    return made


def quantized(x, axes):
    """Float64 ``x`` on an asymmetric 8-bit grid over each slice along ``axes``."""
    x = x.double()
    low, high = x.amin(axes, keepdim=True).clamp(max=0), x.amax(axes, keepdim=True).clamp(min=0)
    scale = (high - low) / 255
    zero = (-low / scale).round()
    return ((x / scale).round() + zero).clamp(0, 255).sub(zero) * scale


@pytest.mark.parametrize("per_token", [False, True])
def test_attention_with_dynamic_operands_in_float64(per_token):
    q, k, v = (seeded(2, 2, n, 8, seed=i) for i, n in enumerate((5, 7, 7)))
    axes = (-1,) if per_token else (1, 2, 3)
    scores = quantized(q, axes) @ quantized(k, axes).transpose(-2, -1) * 8**-0.5
    expected = quantized(scores.softmax(-1), axes) @ quantized(v, (1, 2, 3))
    torch.testing.assert_close(product(per_token).attend(q, k, v).double(), expected, atol=2e-3, rtol=0)


@pytest.mark.parametrize("per_token", [False, True])
def test_attention_does_not_depend_on_how_many_scores_it_holds(per_token, monkeypatch):
    q, k, v = (seeded(2, 2, n, 8, seed=i) for i, n in enumerate((5, 7, 7)))
    whole = product(per_token).attend(q, k, v)
    monkeypatch.setattr(attention, "AT_ONCE", 20)
    assert torch.equal(product(per_token).attend(q, k, v), whole)


def test_products_learn_with_gradients_of_the_same_values():
    q, k = seeded(2, 5, 8), seeded(2, 7, 8, seed=1)
    made, right = product(True), k.transpose(-2, -1)
    found = straight_through_product(made, "qk", q.requires_grad_(), right)
    torch.testing.assert_close(found, made.product("qk", q, right), atol=1e-4, rtol=1e-4)
    found.sum().backward()
    assert q.grad.abs().sum() > 0
