import pytest
import torch
from torch import nn

from tempoquant.numerics.weights import nearest, weight_qparams
from tempoquant.randomness import generator
from tempoquant.reconstruction.gptq import Moments, compensated_rounding, damped, fitted_scale
from tempoquant.reconstruction.inputs import input_vectors


def _normal(*shape, key=0):
    return torch.randn(*shape, generator=generator("test", key))


def _error(weight, rounded, quantized, full=None):
    full = quantized if full is None else full
    return float((full @ weight.T - quantized @ rounded.T).square().mean())


def _correlated(count, width):
    return _normal(count, 6, key=1) @ _normal(6, width, key=2) + 0.3 * _normal(count, width, key=3)


@pytest.mark.parametrize(
    "layer",
    [nn.Conv2d(3, 4, 3, padding=1), nn.Conv2d(3, 4, 3, stride=2), nn.Conv2d(3, 4, 2, dilation=2, padding="same")],
)
def test_patches_times_weight_is_the_convolution(layer):
    x = _normal(2, 3, 7, 7)
    vectors = input_vectors(layer, x, 10_000, generator(0))
    output = layer(x).permute(0, 2, 3, 1).reshape(-1, 4)
    torch.testing.assert_close(vectors @ layer.weight.flatten(1).T + layer.bias, output, rtol=1e-4, atol=1e-5)


def test_drawn_vectors_are_the_same_positions_for_both_streams():
    layer, x = nn.Conv2d(3, 4, 3, padding=1), _normal(4, 3, 8, 8)
    first, second = (input_vectors(layer, v, 20, generator(5)) for v in (x, 2 * x))
    assert first.shape == (20, 27)
    torch.testing.assert_close(2 * first, second)
    assert input_vectors(nn.Linear(3, 1), x.permute(0, 2, 3, 1), 7, generator(1)).shape == (7, 3)


def test_one_step_of_compensation_by_hand():
    # Two equal inputs: rounding w1 = 0.4 to 0 must push its error onto w2, so that 0.4 + 0.4 becomes 0 + 1.
    x = _normal(50, 1) @ torch.ones(1, 2)
    weight = torch.tensor([[0.4, 0.4]])
    grid = weight_qparams(torch.tensor([[0.0, 3.0]]), 2, False, "minmax")
    rounded = compensated_rounding(weight, Moments.of(x, None), grid, damping=1e-4)
    assert sorted(rounded.flatten().tolist()) == [0.0, 1.0]


@pytest.mark.parametrize("bits", [3, 4])
def test_beats_rounding_to_nearest_on_its_own_inputs(bits):
    weight, x = _normal(16, 200, key=9), _correlated(400, 200)
    grid = weight_qparams(weight, bits, False, "mse")
    scale = grid.scale[:, None]
    plain = nearest(weight, grid)
    rounded = compensated_rounding(weight, Moments.of(x, None), grid)
    assert rounded.min() >= -grid.zero.max() and (rounded + grid.zero[:, None]).max() <= grid.q_max
    assert _error(weight, rounded * scale, x) < 0.5 * _error(weight, plain * scale, x)


def test_uses_the_full_precision_stream_as_target():
    weight, full = _normal(16, 100, key=9), _correlated(2000, 100)
    quantized = full @ (torch.eye(100) + 0.05 * _normal(100, 100, key=4))
    grid = weight_qparams(weight, 8, False, "minmax")
    scale = grid.scale[:, None]
    blind = compensated_rounding(weight, Moments.of(quantized, None), grid) * scale
    aware = compensated_rounding(weight, Moments.of(quantized, full), grid) * scale
    assert _error(weight, aware, quantized, full) < 0.5 * _error(weight, blind, quantized, full)


def test_fitted_scale_is_the_least_squares_solution():
    weight, x = _normal(5, 60, key=9), _correlated(300, 60)
    grid = weight_qparams(weight, 3, False, "minmax")
    integers = nearest(weight, grid)
    fitted = fitted_scale(weight, integers, Moments.of(x, None), grid.scale)
    for channel in range(5):
        target, regressor = (x @ weight[channel]).double(), (x @ integers[channel]).double()
        expected = torch.linalg.lstsq(regressor[:, None], target[:, None]).solution.item()
        assert float(fitted[channel]) == pytest.approx(expected, rel=1e-4)


def test_channels_without_integers_keep_their_scale():
    x, scale = _correlated(50, 8), torch.tensor([0.5])
    assert torch.equal(fitted_scale(_normal(1, 8), torch.zeros(1, 8), Moments.of(x, None), scale), scale)


def test_damping_makes_few_inputs_invertible():
    torch.linalg.cholesky(damped(Moments.of(_normal(3, 50), None).gram, 0.01))
