"""Weights of other layouts and by group of inputs that train on their grids."""

import pytest
import torch
from torch import nn

from tempoquant.graph import Category
from tempoquant.layers import to_quantized
from tempoquant.learned import SCHEMES, Draws
from tempoquant.planning import LayerPlan
from tempoquant.training.weights import WeightQuantizer, fold_weight, train_weight

LAYERS = {
    "linear": lambda: nn.Linear(32, 6),
    "transposed": lambda: nn.ConvTranspose1d(32, 6, 3),
    "transposed of groups": lambda: nn.ConvTranspose1d(64, 6, 3, groups=2),
    "embedding": lambda: nn.Embedding(6, 32),
}


@pytest.mark.parametrize("group_size", [None, 16])
@pytest.mark.parametrize("scheme", ["lsq", "duq"])
@pytest.mark.parametrize("name", LAYERS)
def test_what_a_trained_weight_shows_is_what_it_becomes(name, scheme, group_size):
    torch.manual_seed(0)
    layer = to_quantized(LAYERS[name]())
    start = layer.weight.detach().clone()
    plan = LayerPlan(name, Category.IMAGE, 4, 8, True, group_size)
    quantizer = WeightQuantizer(start, SCHEMES[scheme], plan, layer.layout, "minmax", Draws())
    train_weight(layer, quantizer)
    shown = layer.weight.detach().clone()
    assert torch.autograd.grad(layer.weight.square().sum(), quantizer.fields[0])[0].abs().min() > 0
    fold_weight(layer)
    torch.testing.assert_close(layer.dequantized_weight(), shown, rtol=1e-5, atol=1e-6)
    assert layer.weight_scale.shape == (6, 1 if group_size is None else 2)
    assert (shown - start).abs().max() < 0.5 * start.abs().max()
