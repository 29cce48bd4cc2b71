"""Distances of paired samples, against hand-worked numbers, loops and closed forms."""

import math

import numpy as np
import pytest
import torch

from tempoquant.errors import InputError
from tempoquant.evaluation import (
    cosine,
    data_range,
    psnr,
    relative_error,
    sqnr_db,
    ssim,
    temporal_mismatch,
    temporal_mismatch_of,
)


def test_psnr_by_hand():
    a = torch.zeros(3, 1, 2, 2)
    b = torch.stack([torch.full((1, 2, 2), 0.2), torch.zeros(1, 2, 2), torch.tensor([[[1.0, 0], [0, 0]]])])
    # 10 log10(4 / 0.04) = 20; equal; 10 log10(4 / 0.25) = 12.0412
    assert psnr(a, b)[0].item() == pytest.approx(20, abs=1e-5)
    assert psnr(a, b)[1].item() == math.inf
    assert psnr(a, b)[2].item() == pytest.approx(12.041199826559248, abs=1e-12)


def ssim_by_loops(x, y, data_range):
    offsets = np.arange(11) - 5
    line = np.exp(-(offsets**2) / (2 * 1.5**2))
    window = np.outer(line, line)
    window /= window.sum()
    c1, c2 = (0.01 * data_range) ** 2, (0.03 * data_range) ** 2
    values = []
    for channel in range(x.shape[0]):
        for i in range(x.shape[1] - 10):
            for j in range(x.shape[2] - 10):
                p, q = x[channel, i : i + 11, j : j + 11], y[channel, i : i + 11, j : j + 11]
                mp, mq = (window * p).sum(), (window * q).sum()
                vp, vq = (window * (p - mp) ** 2).sum(), (window * (q - mq) ** 2).sum()
                cov = (window * (p - mp) * (q - mq)).sum()
                top = (2 * mp * mq + c1) * (2 * cov + c2)
                values.append(top / ((mp**2 + mq**2 + c1) * (vp + vq + c2)))
    return np.mean(values)


def test_ssim_agrees_with_plain_loops():
    draw = np.random.default_rng(0)
    x, y = draw.uniform(-1, 1, (2, 2, 13, 15)), draw.uniform(-1, 1, (2, 2, 13, 15))
    y = 0.7 * x + 0.3 * y
    got = ssim(torch.from_numpy(x), torch.from_numpy(y)).numpy()
    np.testing.assert_allclose(got, [ssim_by_loops(a, b, 2.0) for a, b in zip(x, y, strict=True)], rtol=1e-9)


def test_ssim_of_constant_images_by_hand():
    a, b = torch.full((1, 1, 11, 11), 0.5), torch.full((1, 1, 11, 11), 0.25)
    # Only the means differ: (2 * 0.5 * 0.25 + c1) / (0.25 + 0.0625 + c1), c1 = 0.0004.
    assert ssim(a, b).item() == pytest.approx(0.2504 / 0.3129, abs=1e-6)
    assert ssim(a, a).item() == pytest.approx(1.0)
    with pytest.raises(InputError, match=r"sides of at least 11, not \(1, 1, 10, 11\)"):
        ssim(a[:, :, 1:], b[:, :, 1:])


def test_psnr_and_ssim_take_any_data_range():
    draw = np.random.default_rng(0)
    x, y = draw.uniform(-20, 20, (2, 1, 13, 15)), draw.uniform(-20, 20, (2, 1, 13, 15))
    got = ssim(torch.from_numpy(x), torch.from_numpy(y), 40.0).numpy()
    np.testing.assert_allclose(got, [ssim_by_loops(a, b, 40.0) for a, b in zip(x, y, strict=True)], rtol=1e-9)
    # 10 log10(40^2 / 0.04) = 46.02: 26.02 dB above those of range 2.
    zero, near = torch.zeros(1, 1, 2, 2), torch.full((1, 1, 2, 2), 0.2)
    assert psnr(zero, near, 40.0).item() == pytest.approx(10 * math.log10(1600 / 0.04), abs=1e-5)


@pytest.mark.parametrize(
    ("low", "high", "wanted"),
    [(-1, 1, 2), (0, 1, 2), (-1.507, 1.392, 2), (-2, 2, 2), (-2.5, 1, 3.5), (-20, 20, 40), (3, 5, 2), (9, 9, 2)],
)
def test_the_range_of_images_is_2_unless_they_lie_far_outside(low, high, wanted):
    assert data_range(torch.tensor([low, (low + high) / 2, high]).reshape(1, 1, 1, 3)) == pytest.approx(wanted)


def test_relative_error_by_hand():
    a = torch.tensor([[3.0, 4.0], [0.0, 0.0], [1.0, 0.0]])
    b = torch.tensor([[3.0, 4.5], [0.0, 0.0], [1.0, 2.0]])
    assert relative_error(a, b).tolist() == pytest.approx([0.1, 0.0, 2.0])


def test_sqnr_by_hand():
    signal = torch.tensor([3.0, 4.0])
    assert sqnr_db(signal, torch.tensor([3.0, 3.5])) == pytest.approx(20)
    assert sqnr_db(signal, signal) == math.inf
    with pytest.raises(InputError, match="equal, non-empty shapes"):
        sqnr_db(signal, signal[:1])


def test_cosine_by_hand():
    a = torch.tensor([[1.0, 0.0], [1.0, 1.0], [2.0, 0.0], [0.0, 0.0], [0.0, 0.0]])
    b = torch.tensor([[0.0, 3.0], [1.0, 0.0], [5.0, 0.0], [0.0, 0.0], [1.0, 0.0]])
    assert cosine(a, b).tolist() == pytest.approx([0.0, math.sqrt(0.5), 1.0, 1.0, 0.0])


def test_temporal_mismatch_by_hand():
    full = torch.tensor([[0.0, 0.0], [1.0, 0.0], [2.0, 0.0], [3.0, 0.0]])
    moved = full + torch.tensor([[0.4, 0.0], [0.6, 0.0], [-0.4, 0.0], [-0.5, 0.0]])
    # Rows 0 and 2 stay nearest to their own, row 1 goes to row 2, row 3 lies midway: a tie is no mismatch.
    assert temporal_mismatch(full, moved) == 0.25
    assert temporal_mismatch_of({"a": full, "b": full}, {"a": moved, "b": full}) == 0.125
    same = torch.ones(3, 2) * 1e4
    assert temporal_mismatch(same, same) == 0.0
