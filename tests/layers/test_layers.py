import copy
import itertools

import numpy as np
import pytest
import torch
from torch import nn

from tempoquant.intervals import ConstantInterval
from tempoquant.layers import QuantConv2d, QuantLinear, to_quantized
from tempoquant.layers.simulation import channel_parts
from tempoquant.numerics import affine_qparams, quantize
from tempoquant.numerics.weights import nearest, weight_qparams


def _seeded(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def _quantize_weight(layer, bits, symmetric):
    grid = weight_qparams(layer.weight, bits, symmetric, "minmax")
    layer.set_weight(nearest(layer.weight, grid), grid, bits)


def _integers(x, interval):
    q = quantize(x, interval.scale, interval.zero_point, interval.q_min, interval.q_max) - interval.zero_point
    return q.to(torch.int64).numpy()


def _scaled(acc, layer, interval, channel_axis):
    """(acc * s_x) * s_w + b in float32, step by step in numpy."""
    shape = [1] * acc.ndim
    shape[channel_axis] = -1
    out = (acc.astype(np.float32) * np.float32(interval.scale)) * layer.weight_scale.numpy().reshape(shape)
    return out + layer.bias.detach().numpy().reshape(shape)


@pytest.mark.parametrize(("w_bits", "symmetric"), [(4, False), (8, True), (3, False), (8, False), (16, True)])
@pytest.mark.parametrize("channels", [24, 4000])
def test_linear_is_exact_integer_arithmetic(w_bits, symmetric, channels):
    stock = nn.Linear(channels, 6)
    stock.weight.data = _seeded(6, channels) + 0.5
    layer = to_quantized(stock)
    _quantize_weight(layer, w_bits, symmetric)
    x = _seeded(5, channels, seed=1) + 1
    layer.input_interval = ConstantInterval(affine_qparams(x.min(), x.max(), 8), 8)
    interval = layer.input_interval.current()
    acc = _integers(x, interval) @ layer.weight.numpy().astype(np.int64).T
    np.testing.assert_array_equal(layer(x).detach().numpy(), _scaled(acc, layer, interval, 1))


@pytest.mark.parametrize(("w_bits", "channels"), [(4, 8), (8, 8), (8, 700)])
@pytest.mark.parametrize("options", [{"padding": 1}, {"stride": 2}, {"padding": 2, "dilation": 2}])
def test_conv_is_exact_integer_arithmetic_with_padding(w_bits, channels, options):
    layer = to_quantized(nn.Conv2d(channels, 5, 3, **options))
    layer.weight.data = _seeded(5, channels, 3, 3) + 0.7
    _quantize_weight(layer, w_bits, w_bits == 8)
    x = _seeded(2, channels, 9, 9, seed=1) + 0.3
    layer.input_interval = ConstantInterval(affine_qparams(x.min(), x.max(), 8), 8)
    interval = layer.input_interval.current()
    q = _integers(x, interval)
    p, s, d = layer.padding[0], layer.stride[0], layer.dilation[0]
    q = np.pad(q, ((0, 0), (0, 0), (p, p), (p, p)))
    weight, size = layer.weight.numpy().astype(np.int64), (q.shape[2] - 2 * d - 1) // s + 1
    acc = sum(
        np.einsum("bchw,oc->bohw", q[:, :, d * i :: s, d * j :: s][:, :, :size, :size], weight[:, :, i, j])
        for i in range(3)
        for j in range(3)
    )
    np.testing.assert_array_equal(layer(x).detach().numpy(), _scaled(acc, layer, interval, 1))


def test_long_sums_are_split_into_exact_parts():
    reach = torch.full((2, 100), 2.0**20, dtype=torch.float64)
    bounds = channel_parts(reach)
    assert bounds[0] == 0 and bounds[-1] == 100
    assert all((b - a) * 2**20 < 2**24 for a, b in itertools.pairwise(bounds))
    assert channel_parts(torch.full((1, 4), 2.0**25, dtype=torch.float64)) is None
    assert channel_parts(torch.full((1, 4), 2.0**20, dtype=torch.float64)) == [0, 4]


def test_weights_alone_compute_the_float_product_of_the_dequantized_weight():
    layer = to_quantized(nn.Linear(7, 3))
    _quantize_weight(layer, 4, False)
    x = _seeded(2, 7)
    torch.testing.assert_close(layer(x), x @ layer.dequantized_weight().T + layer.bias, rtol=0, atol=1e-6)


def test_stock_constructor_computes_as_stock():
    layer, x = QuantConv2d(3, 4, 3, padding=1), _seeded(1, 3, 5, 5)
    torch.testing.assert_close(layer(x), nn.functional.conv2d(x, layer.weight, layer.bias, padding=1))
    assert isinstance(layer.weight, nn.Parameter) and layer.weight.requires_grad
    assert isinstance(QuantLinear(3, 4, bias=False), nn.Linear)


def test_quantized_weight_is_a_real_parameter_of_integers():
    layer = to_quantized(nn.Conv2d(3, 4, 3))
    _quantize_weight(layer, 4, False)
    assert isinstance(layer.weight, nn.Parameter) and layer.weight.dtype == torch.int8
    assert copy.deepcopy(layer).weight.dtype == torch.int8
