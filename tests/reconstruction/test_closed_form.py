import pytest
import torch
from torch import nn

from tempoquant.layers import to_quantized
from tempoquant.numerics.weights import nearest, weight_qparams
from tempoquant.randomness import rng
from tempoquant.reconstruction.gptq import Moments, compensated_rounding, fitted_scale, gram


def _normal(*shape, key=0):
    return torch.randn(*shape, generator=rng("test", key))


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
    vectors = to_quantized(layer).input_vectors(x, 10_000, rng(0))
    output = layer(x).permute(0, 2, 3, 1).reshape(-1, 4)
    torch.testing.assert_close(vectors @ layer.weight.flatten(1).T + layer.bias, output, rtol=1e-4, atol=1e-5)


def test_drawn_vectors_are_the_same_positions_for_both_streams():
    layer, x = nn.Conv2d(3, 4, 3, padding=1), _normal(4, 3, 8, 8)
    first, second = (to_quantized(layer).input_vectors(v, 20, rng(5)) for v in (x, 2 * x))
    assert first.shape == (20, 27)
    torch.testing.assert_close(2 * first, second)
    rows = to_quantized(nn.Linear(3, 1)).input_vectors(x.permute(0, 2, 3, 1), 7, rng(1))
    assert rows.shape == (7, 3)


def test_one_step_of_compensation_by_hand():
    # Two equal inputs: rounding w1 = 0.4 to 0 must push its error onto w2, so that 0.4 + 0.4 becomes 0 + 1.
    x = _normal(50, 1) @ torch.ones(1, 2)
    weight = torch.tensor([[0.4, 0.4]])
    grid = weight_qparams(torch.tensor([[0.0, 3.0]]), 2, False, "minmax")
    rounded = compensated_rounding(weight, Moments.of(weight, x, None), grid, damping=1e-4)
    assert sorted(rounded.flatten().tolist()) == [0.0, 1.0]


@pytest.mark.parametrize("bits", [3, 4])
def test_beats_rounding_to_nearest_on_its_own_inputs(bits):
    weight, x = _normal(16, 200, key=9), _correlated(400, 200)
    grid = weight_qparams(weight, bits, False, "mse")
    scale = grid.scale
    plain = nearest(weight, grid)
    rounded = compensated_rounding(weight, Moments.of(weight, x, None), grid)
    assert rounded.min() >= -grid.zero_point.max() and (rounded + grid.zero_point).max() <= grid.q_max
    assert _error(weight, rounded * scale, x) < 0.5 * _error(weight, plain * scale, x)


def test_uses_the_full_precision_stream_as_target():
    weight, full = _normal(16, 100, key=9), _correlated(2000, 100)
    quantized = full @ (torch.eye(100) + 0.05 * _normal(100, 100, key=4))
    grid = weight_qparams(weight, 8, False, "minmax")
    scale = grid.scale
    blind = compensated_rounding(weight, Moments.of(weight, quantized, None), grid) * scale
    aware = compensated_rounding(weight, Moments.of(weight, quantized, full), grid) * scale
    assert _error(weight, aware, quantized, full) < 0.5 * _error(weight, blind, quantized, full)


def test_fitted_scale_is_the_least_squares_solution():
    weight, x = _normal(5, 60, key=9), _correlated(300, 60)
    grid = weight_qparams(weight, 3, False, "minmax")
    integers = nearest(weight, grid)
    fitted = fitted_scale(weight, integers, Moments.of(weight, x, None), grid.scale)
    for channel in range(5):
        target, regressor = (x @ weight[channel]).double(), (x @ integers[channel]).double()
        expected = torch.linalg.lstsq(regressor[:, None], target[:, None]).solution.item()
        assert float(fitted[channel]) == pytest.approx(expected, rel=1e-4)


def test_channels_without_integers_keep_their_scale():
    weight, x, scale = _normal(1, 8), _correlated(50, 8), torch.tensor([[0.5]])
    assert torch.equal(fitted_scale(weight, torch.zeros(1, 8), Moments.of(weight, x, None), scale), scale)


def test_fewer_inputs_than_columns_are_enough():
    weight, x = _normal(4, 50, key=9), _normal(3, 50)
    grid = weight_qparams(weight, 4, False, "minmax")
    assert compensated_rounding(weight, Moments.of(weight, x, None), grid).isfinite().all()


@pytest.mark.parametrize("width", [3, 512, 1300])
def test_gram_is_the_product_of_all_columns(width):
    x = _normal(40, width)
    torch.testing.assert_close(gram(x).double(), x.double().T @ x.double(), rtol=1e-4, atol=1e-4)


def test_drift_is_what_other_inputs_take_from_the_output():
    weight, quantized, full = _normal(7, 20, key=9), _normal(90, 20, key=1), _normal(90, 20, key=2)
    lacking = (full - quantized).double() @ weight.T.double()
    expected = quantized.T.double() @ lacking / 90
    torch.testing.assert_close(Moments.of(weight, quantized, full).drift.double(), expected, rtol=1e-4, atol=1e-5)


def _optimal_brain_quantization(weight, gram, scale, zero, levels):
    """The textbook's rule in float64: round the column of most energy, move the others, drop it from the inverse."""
    weight, inverse = weight.double().clone(), torch.linalg.inv(gram.double())
    rounded = torch.empty_like(weight)
    for column in gram.diagonal().argsort(descending=True).tolist():
        integers = (weight[:, column] / scale + zero).round().clamp(0, levels) - zero
        error = (weight[:, column] - integers * scale) / inverse[column, column]
        weight -= torch.outer(error, inverse[column])
        inverse -= torch.outer(inverse[:, column], inverse[column]) / inverse[column, column]
        rounded[:, column] = integers
    return rounded


def test_rounds_as_optimal_brain_quantization_does():
    weight, full = _normal(8, 300, key=9), _correlated(900, 300)
    quantized = full + 0.1 * _normal(900, 300, key=5)
    grid = weight_qparams(weight, 4, False, "mse")
    moments = Moments.of(weight, quantized, full)
    damped = moments.gram.double() + 0.01 * moments.gram.diagonal().mean() * torch.eye(300)
    cross = (full - quantized).double().T @ quantized.double() / 900
    moved = weight.double() @ (torch.eye(300) + cross @ torch.linalg.inv(damped))
    expected = _optimal_brain_quantization(
        moved, damped, grid.scale[:, 0].double(), grid.zero_point[:, 0].double(), grid.q_max
    )
    same = compensated_rounding(weight, moments, grid) == expected
    # float32 and float64 part where a value lies on the edge of two integers, and in that channel from there on.
    assert same.float().mean() > 0.98
    assert same.all(1).sum() >= 6
