import pytest
import torch

from tempoquant.errors import InputError
from tempoquant.numerics import affine_qparams, dequantize, grid, quantize


def test_grids_by_hand():
    assert grid(2) == (0, 3)
    assert grid(4) == (0, 15)
    assert grid(8, symmetric=True) == (-128, 127)
    assert grid(16) == (0, 65535)


@pytest.mark.parametrize("bits", [0, 1, 9, 15, 32])
def test_unsupported_bits_are_named(bits):
    with pytest.raises(InputError, match=rf"bits = {bits} .*2 to 8, and 16"):
        grid(bits)


def test_asymmetric_qparams_by_hand():
    q = affine_qparams(torch.tensor(-1.0), torch.tensor(2.0), 4)
    assert float(q.scale) == pytest.approx(0.2)
    assert int(q.zero_point) == 5
    x = torch.tensor([-1.0, 0.0, 0.29, 0.31, 2.0, 9.0, -9.0])
    assert quantize(x, q.scale, q.zero_point, q.q_min, q.q_max).tolist() == [0, 5, 6, 7, 15, 15, 0]


def test_range_is_widened_to_contain_zero():
    q = affine_qparams(torch.tensor(1.0), torch.tensor(3.0), 8)
    assert int(q.zero_point) == 0
    assert float(q.scale) == pytest.approx(3 / 255)


def test_ties_round_to_even():
    x = torch.tensor([0.5, 1.5, 2.5, -0.5])
    q = quantize(x, torch.tensor(1.0), torch.tensor(8), 0, 15)
    assert q.tolist() == [8, 10, 10, 8]


@pytest.mark.parametrize("bits", [2, 3, 4, 6, 8])
def test_agrees_with_torch_fake_quantize(bits):
    x = torch.randn(1000, generator=torch.Generator().manual_seed(bits))
    q = affine_qparams(x.min(), x.max(), bits)
    ours = dequantize(quantize(x, q.scale, q.zero_point, q.q_min, q.q_max), q.scale, q.zero_point)
    theirs = torch.fake_quantize_per_tensor_affine(x, float(q.scale), int(q.zero_point), q.q_min, q.q_max)
    off_ties = ((x / q.scale).frac().abs() - 0.5).abs() > 1e-4
    torch.testing.assert_close(ours[off_ties], theirs[off_ties], rtol=1e-6, atol=1e-6)


def test_symmetric_per_channel_agrees_with_torch():
    w = torch.randn(5, 40, generator=torch.Generator().manual_seed(0))
    q = affine_qparams(w.amin(1), w.amax(1), 8, symmetric=True)
    ours = dequantize(
        quantize(w, q.scale[:, None], q.zero_point[:, None], q.q_min, q.q_max), q.scale[:, None], q.zero_point[:, None]
    )
    theirs = torch.fake_quantize_per_channel_affine(w, q.scale, q.zero_point, 0, q.q_min, q.q_max)
    torch.testing.assert_close(ours, theirs, rtol=1e-6, atol=1e-6)
