"""Every layer kind against float64: its meaning in integers, its rows, its input vectors."""

import copy

import pytest
import torch
from torch import nn

from tempoquant.errors import InputError
from tempoquant.graph import StockKind
from tempoquant.intervals import ConstantInterval
from tempoquant.layers import LAYER_KINDS, QuantLinear, layer_kind, to_quantized
from tempoquant.numerics import RowLayout, affine_qparams, nearest, quantize, weight_qparams
from tempoquant.randomness import rng

LAYERS = {
    "linear": (lambda: nn.Linear(32, 6), (3, 32)),
    "conv1d": (lambda: nn.Conv1d(32, 6, 3, stride=2, padding=1), (2, 32, 9)),
    "conv1d of groups": (lambda: nn.Conv1d(64, 6, 3, groups=2, dilation=2), (2, 64, 9)),
    "conv2d": (lambda: nn.Conv2d(32, 6, 3, padding=1), (2, 32, 5, 4)),
    "conv3d": (lambda: nn.Conv3d(32, 6, (1, 2, 3), stride=(1, 2, 1), padding=(0, 1, 1)), (2, 32, 3, 4, 5)),
    "conv-transpose1d": (lambda: nn.ConvTranspose1d(32, 6, 3, stride=2, padding=1, output_padding=1), (2, 32, 5)),
    "conv-transpose2d": (lambda: nn.ConvTranspose2d(32, 6, (3, 2), stride=(2, 1), dilation=(1, 2)), (2, 32, 4, 3)),
    "conv-transpose2d of groups": (lambda: nn.ConvTranspose2d(64, 6, 2, stride=2, groups=2), (2, 64, 4, 3)),
}


def _quantized(name, group_size=None, bits=4):
    make, shape = LAYERS[name]
    torch.manual_seed(0)
    layer = to_quantized(make().requires_grad_(False))
    rows = layer.layout.to_rows(layer.weight)
    groups = 1 if group_size is None else layer.layout.input_channels // group_size
    grid = weight_qparams(rows, bits, False, "minmax", groups)
    layer.set_weight(layer.layout.from_rows(nearest(rows, grid)), grid, bits)
    x = torch.randn(shape, generator=rng("kinds")) + 0.5
    layer.input_interval = ConstantInterval(affine_qparams(x.min(), x.max(), 8), 8)
    return make, layer, x


def _stock(make, weight, bias):
    """The stock layer in float64 with another weight."""
    stock = make().double().requires_grad_(False)
    stock.weight.copy_(weight)
    stock.bias.copy_(torch.zeros_like(stock.bias) if bias is None else bias)
    return stock


@pytest.mark.parametrize("name", LAYERS)
def test_one_scale_a_channel_is_exact_integer_arithmetic(name):
    make, layer, x = _quantized(name)
    interval = layer.input_interval.current()
    q = quantize(x, interval.scale, interval.zero_point, interval.q_min, interval.q_max) - interval.zero_point
    acc = _stock(make, layer.weight, None)(q.double())
    assert torch.equal(acc, acc.round()) and acc.abs().max() > 0
    expected = (acc.float() * interval.scale) * layer.over_output(layer.weight_scale[:, 0])
    assert torch.equal(layer(x), expected + layer.over_output(layer.bias))


@pytest.mark.parametrize("name", LAYERS)
def test_groups_add_exact_sums_in_their_order(name):
    make, layer, x = _quantized(name, group_size=16)
    interval, layout = layer.input_interval.current(), layer.layout
    assert layer.weight_scale.shape == (6, 2) and layer.group_size == 16
    q = quantize(x, interval.scale, interval.zero_point, interval.q_min, interval.q_max) - interval.zero_point
    expected = None
    for g in range(2):
        # Weights of the other group are zero: the stock layer in float64 then sums this one alone.
        kept = torch.zeros_like(layout.to_rows(layer.weight).view(6, 2, -1))
        kept[:, g] = layout.to_rows(layer.weight).view(6, 2, -1)[:, g]
        acc = _stock(make, layout.from_rows(kept.flatten(1)), None)(q.double()).float()
        part = (acc * interval.scale) * layer.over_output(layer.weight_scale[:, g])
        expected = part if expected is None else expected + part
    assert torch.equal(layer(x), expected + layer.over_output(layer.bias))


def test_groups_by_hand():
    layer = to_quantized(nn.Linear(4, 1))
    layer.bias.data = torch.tensor([0.5])
    grid = weight_qparams(torch.tensor([[0.0, 3.0, 0.0, 30.0]]), 2, False, "minmax", groups=2)
    assert grid.scale.tolist() == [[1.0, 10.0]] and grid.zero_point.tolist() == [[0, 0]]
    layer.set_weight(torch.tensor([[1.0, 2.0, 3.0, 1.0]]), grid, 2)
    layer.input_interval = ConstantInterval(affine_qparams(torch.tensor(0.0), torch.tensor(255 / 4), 8), 8)
    # Integers 4, 8, 12, 2 at a scale of 1/4: (4 + 16) / 4 * 1 + (36 + 2) / 4 * 10 + 1/2.
    assert layer(torch.tensor([[1.0, 2.0, 3.0, 0.5]])).tolist() == [[5 + 95 + 0.5]]


@pytest.mark.parametrize("group_size", [None, 16])
@pytest.mark.parametrize("name", LAYERS)
def test_the_float_weight_of_the_integers(name, group_size):
    make, layer, x = _quantized(name, group_size)
    layer.input_interval = None
    expected = _stock(make, layer.dequantized_weight(), layer.bias)(x.double())
    torch.testing.assert_close(layer(x).double(), expected, rtol=1e-4, atol=1e-5)
    step = layer.layout.broadcast(layer.weight_scale)
    torch.manual_seed(0)
    assert ((make().weight - layer.dequantized_weight()).abs() <= 0.5001 * step).all()


@pytest.mark.parametrize("name", [name for name in LAYERS if "groups" not in name])
def test_rows_times_input_vectors_are_the_output(name):
    make, layer, x = _quantized(name)
    vectors = layer.input_vectors(x, 10_000, rng(0))
    stock = make().requires_grad_(False)
    rows = layer.layout.to_rows(stock.weight)
    output = stock(x).movedim(-1 - layer.kind.spatial, -1).reshape(-1, 6)
    torch.testing.assert_close(vectors @ rows.T + stock.bias, output, rtol=1e-4, atol=1e-5)
    first, second = (layer.input_vectors(v, 2, rng(7)) for v in (x, 2 * x))
    assert first.shape == (2, rows.shape[1]) and torch.equal(2 * first, second)


def test_padding_by_reflection_is_part_of_the_vectors():
    layer, x = to_quantized(nn.Conv2d(3, 4, 3, padding=1, padding_mode="reflect")), torch.randn(1, 3, 5, 5)
    output = layer(x).permute(0, 2, 3, 1).reshape(-1, 4) - layer.bias
    vectors = layer.input_vectors(x, 100, rng(0))
    torch.testing.assert_close(vectors @ layer.weight.flatten(1).T, output, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("axis", "groups"), [(0, 1), (0, 3), (1, 1), (1, 3)])
def test_rows_are_those_of_the_output_channels(axis, groups):
    shape = (6, 4, 2) if axis == 0 else (12, 2, 2)
    layout, weight = RowLayout(shape, axis, groups), torch.randn(shape)
    rows = layout.to_rows(weight)
    assert rows.shape == (layout.output_channels, layout.row_length)
    assert torch.equal(layout.from_rows(rows), weight)
    scale = torch.rand(layout.output_channels, 2)
    wide = rows.view(len(rows), 2, -1) * scale[:, :, None]
    assert torch.equal(weight * layout.broadcast(scale), layout.from_rows(wide.flatten(1)))
    part = layout.over_channels(weight, 1, 3)
    by_channel = rows.view(len(rows), layout.input_channels, -1)
    cut = (*shape[:1], 2, *shape[2:]) if axis == 0 else (2 * groups, *shape[1:])
    assert torch.equal(RowLayout(cut, axis, groups).to_rows(part), by_channel[:, 1:3].flatten(1))


def test_a_transposed_convolution_of_a_wanted_size():
    _, layer, x = _quantized("conv-transpose2d")
    stock = nn.ConvTranspose2d(32, 6, (3, 2), stride=(2, 1), dilation=(1, 2)).requires_grad_(False)
    stock.weight.copy_(layer.dequantized_weight())
    stock.bias.copy_(layer.bias)
    layer.input_interval = None
    torch.testing.assert_close(layer(x, output_size=[10, 5]), stock(x, output_size=[10, 5]), rtol=1e-4, atol=1e-5)
    assert layer.output_padding == (0, 0) and layer(x).shape[-2:] == (9, 5)


@pytest.mark.parametrize("group_size", [None, 16])
def test_an_embedding_has_a_grid_for_every_row(group_size):
    torch.manual_seed(0)
    stock = nn.Embedding(5, 32).requires_grad_(False)
    stock.weight[3] *= 100
    layer = to_quantized(copy.deepcopy(stock))
    grid = weight_qparams(layer.weight, 8, True, "minmax", 1 if group_size is None else 2)
    layer.set_weight(nearest(layer.weight, grid), grid, 8)
    labels = torch.tensor([[3, 0], [4, 3]])
    error = (layer(labels) - stock(labels)).abs()
    scale = layer.layout.broadcast(layer.weight_scale).expand(5, 32)
    assert (error <= 0.5001 * scale[labels]).all() and error.max() > 0
    assert not layer.has_input_vectors and layer.weight.dtype == torch.int8
    half = copy.deepcopy(layer).half()
    assert half(labels).dtype == torch.float16 and half.weight_scale.dtype == torch.float32


def test_an_unknown_class_is_named():
    with pytest.raises(TypeError, match="a GRU cannot be quantized: Linear, Conv1d, Conv2d, "):
        to_quantized(nn.GRU(1, 1))


def test_a_kind_registers_once_and_derives_from_its_class():
    before = dict(LAYER_KINDS)
    with pytest.raises(InputError, match="kind 'conv2d' has that class or name"):
        layer_kind(StockKind("mine", nn.Conv2d))(LAYER_KINDS[to_quantized(nn.Conv2d(1, 1, 1)).kind])
    with pytest.raises(InputError, match="QuantLinear must derive from Bilinear"):
        layer_kind(StockKind("bilinear", nn.Bilinear))(QuantLinear)
    assert before == LAYER_KINDS
