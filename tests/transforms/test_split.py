"""A layer in two parts: the same map in float, and a grid for each range of channels."""

import copy

import pytest
import torch
from torch import nn

from tempoquant.errors import FormatError
from tempoquant.intervals import ConstantInterval
from tempoquant.layers import install_layers
from tempoquant.numerics import affine_qparams
from tempoquant.numerics.weights import nearest, weight_qparams
from tempoquant.transforms import LayerTransform, Split, install_transforms
from tempoquant.transforms.split import SplitLayer

LAYERS = {
    "linear": (nn.Linear(6, 3), (2, 5, 6)),
    "1x1": (nn.Conv2d(6, 3, 1), (2, 6, 4, 4)),
    "strided": (nn.Conv2d(6, 3, 3, stride=2, padding=1, bias=False), (2, 6, 5, 5)),
    "dilated": (nn.Conv2d(6, 3, 3, padding=2, dilation=2, padding_mode="reflect"), (2, 6, 6, 6)),
}


@pytest.mark.parametrize("name", LAYERS)
def test_both_parts_together_are_the_layer(name):
    layer, shape = LAYERS[name]
    x, weight = torch.randn(shape), layer.weight.clone()
    split = SplitLayer(layer.eval(), 4)
    torch.testing.assert_close(split(x), layer(x))
    assert (split.first.weight.shape[1], split.second.weight.shape[1]) == (4, 2)
    assert split.second.bias is None and split.first.bias is layer.bias
    assert torch.equal(layer.weight, weight) and not split.training and not split.second.training


def quantized(layer: nn.Linear, names: list[str], x: torch.Tensor, bits: int) -> nn.Module:
    """A network of this layer alone, rounded to nearest on min-max ranges of ``x``."""
    net = nn.ModuleDict({"layer": copy.deepcopy(layer)})
    if len(names) > 1:
        install_transforms(net, [LayerTransform("layer", Split(2))])
    parts = {"layer": x, "layer.first": x[:, :2], "layer.second": x[:, 2:]}
    for name, part in install_layers(net, names).items():
        grid = weight_qparams(part.weight, bits, False, "minmax")
        part.set_weight(nearest(part.weight, grid), grid, bits)
        low, high = parts[name].min(), parts[name].max()
        part.input_interval = ConstantInterval(affine_qparams(low, high, bits), bits)
    return net["layer"]


def test_hand_worked_integers_of_a_bimodal_input():
    layer = nn.Linear(4, 1)
    layer.weight.data = torch.tensor([[30.0, -15.0, 0.3, -0.15]])
    layer.bias.data = torch.tensor([0.5])
    x = torch.tensor([[30.0, -15.0, 0.3, 0.15], [0.0, 0.0, 0.15, -0.15]])
    parts = quantized(layer, ["layer.first", "layer.second"], x, 4)
    # First: weights of step 45 / 15 = 3, inputs likewise. Second: step 0.03, and 0.45 / 15 = 0.03.
    assert parts.first.weight.tolist() == [[10, -5]] and parts.second.weight.tolist() == [[10, -5]]
    torch.testing.assert_close(parts.first.weight_scale, torch.tensor([[3.0]]))
    torch.testing.assert_close(parts.second.weight_scale, torch.tensor([[0.03]]))
    # (10 * 10 + 5 * 5) * 3 * 3 + 0.5 + (10 * 10 - 5 * 5) * 0.03 * 0.03, and 0.5 + (5 * 10 + 5 * 5) * 0.03 * 0.03.
    torch.testing.assert_close(parts(x), torch.tensor([[1125.5675], [0.5675]]))
    whole = quantized(layer, ["layer"], x, 4)
    # One grid of step 3 knows nothing of the second part.
    assert whole.weight.tolist() == [[10, -5, 0, 0]]
    torch.testing.assert_close(whole(x), torch.tensor([[1125.5], [0.5]]))


def test_a_bimodal_input_has_a_clearly_smaller_error_in_parts():
    draw = torch.Generator().manual_seed(0)
    layer = nn.Linear(4, 8)
    layer.weight.data = torch.randn(8, 4, generator=draw) * torch.tensor([0.05, 0.05, 1.0, 1.0])
    x = torch.randn(256, 4, generator=draw) * torch.tensor([20.0, 20.0, 0.5, 0.5])
    full = layer(x).detach()
    names = ["layer.first", "layer.second"]
    error = {len(n): float((quantized(layer, n, x, 6)(x) - full).detach().square().mean()) for n in (["layer"], names)}
    assert error[2] < 0.1 * error[1]


def test_a_layer_in_two_places_stays_one():
    layer = nn.Linear(4, 2)
    net = nn.ModuleDict({"a": layer, "b": nn.Sequential(layer)})
    install_transforms(net, [LayerTransform("a", Split(1))])
    assert isinstance(net["a"], SplitLayer) and net["b"][0] is net["a"]


@pytest.mark.parametrize(("name", "split"), [("none", 1), ("layer", 4), ("layer", 0), ("norm", 1)])
def test_what_cannot_be_split_is_named(name, split):
    net = nn.ModuleDict({"layer": nn.Linear(4, 2), "norm": nn.LayerNorm(4)})
    with pytest.raises(FormatError, match=f"called '{name}' to split at channel {split}"):
        install_transforms(net, [LayerTransform(name, Split(split))])
