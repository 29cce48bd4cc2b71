"""Scales in the order of a layer's meaning, whichever order this processor's operators have."""

import pytest
import torch

from tempoquant.intervals import ConstantInterval
from tempoquant.kernels import onednn as native
from tempoquant.kernels.check import scales_apply_in_order
from tempoquant.kernels.operators import apply_scale_and_bias
from tempoquant.layers import QuantConv1d, QuantConv2d, QuantLinear, simulate
from tempoquant.numerics import QParams


def quantized(layer):
    draw = torch.Generator().manual_seed(1)
    channels = layer.weight.shape[0]
    integers = torch.randint(-8, 8, layer.weight.shape, generator=draw)
    scale = torch.rand(channels, generator=draw) * 0.01 + 1e-3
    layer.set_weight(integers.float(), QParams(scale[:, None], torch.full((channels, 1), 8), 0, 15), 4)
    layer.input_interval = ConstantInterval(QParams(torch.tensor(0.0371), torch.tensor(113), 0, 255), 8)
    return layer.requires_grad_(False)


LAYERS = {
    "linear": (lambda: QuantLinear(64, 48), (128, 64)),
    "linear of sequences": (lambda: QuantLinear(64, 48), (2, 16, 64)),
    "linear without bias": (lambda: QuantLinear(64, 48, bias=False), (128, 64)),
    "signal": (lambda: QuantConv1d(64, 32, 3, stride=2, padding=1), (2, 64, 9)),
    "signal of groups": (lambda: QuantConv1d(64, 32, 3, groups=2, dilation=2), (2, 64, 9)),
    "convolution": (lambda: QuantConv2d(64, 32, 3, padding=1), (2, 64, 8, 8)),
    "convolution without bias": (lambda: QuantConv2d(64, 32, 1, bias=False), (2, 64, 8, 8)),
}


@pytest.mark.parametrize("kind", LAYERS)
@pytest.mark.parametrize("in_order", [None, False])
def test_results_are_simulations_bits(kind, in_order, monkeypatch):
    if in_order is not None:
        monkeypatch.setattr(native, "scales_apply_in_order", lambda: in_order)
    make, shape = LAYERS[kind]
    torch.manual_seed(0)
    layer, x = quantized(make()), torch.randn(shape, generator=torch.Generator().manual_seed(2)) * 3
    with torch.no_grad():
        kernel = native.IntegerKernel()
        assert torch.equal(kernel(layer, x), simulate(layer, x))
    assert (kernel.packed.finish is None) == (scales_apply_in_order() and in_order is None)


def test_scale_and_bias_round_after_each_step():
    # In float32 3 * 0.1 rounds up, and a fused multiply-add would keep what was rounded off.
    out, scale, bias = torch.tensor([[3.0]]), torch.tensor([0.1]), torch.tensor([-0.3])
    exact = float(torch.tensor(3.0) * torch.tensor(0.1)) + float(torch.tensor(-0.3))
    assert float(apply_scale_and_bias(out, scale, bias)) == float(torch.tensor(exact, dtype=torch.float64).float())
