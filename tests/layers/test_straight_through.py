import pytest
import torch
from attention_parts import constant, give_intervals, seeded
from torch import nn

from tempoquant.layers import QuantizedProduct, simulate, straight_through, straight_through_product, to_quantized
from tempoquant.numerics.weights import nearest, weight_qparams


def quantized(layer):
    layer = to_quantized(layer.requires_grad_(False))
    grid = weight_qparams(layer.weight, 4, False, "minmax")
    layer.set_weight(nearest(layer.weight, grid), grid, 4)
    layer.input_interval = constant(0.1, 30, 6)
    return layer


@pytest.mark.parametrize("layer", [nn.Linear(6, 5), nn.Conv2d(6, 5, 3, padding=1)])
def test_a_layer_computes_as_simulated_and_its_scale_gets_a_gradient(layer):
    layer = quantized(layer)
    x = seeded(2, 6, 6, 6) * 2
    expected = simulate(layer, x)
    layer.kernel = straight_through
    layer.input_interval.scale.requires_grad_()
    out = layer(x)
    torch.testing.assert_close(out.detach(), expected, rtol=1e-5, atol=1e-5)
    out.square().sum().backward()
    assert float(layer.input_interval.scale.grad) != 0


def test_a_product_computes_as_simulated_and_its_scales_get_gradients():
    product = QuantizedProduct()
    give_intervals(product, 6)
    q, k, v = (seeded(2, 4, 5, 8, seed=i) for i in range(3))
    expected = product.attend(q, k, v)
    product.kernel = straight_through_product
    for interval in product.intervals.values():
        interval.scale.requires_grad_()
    out = product.attend(q, k, v)
    torch.testing.assert_close(out.detach(), expected, rtol=1e-4, atol=1e-5)
    out.square().sum().backward()
    assert all(float(interval.scale.grad) != 0 for interval in product.intervals.values())
