import numpy as np
import pytest
import torch

from tempoquant.numerics import mse_range, percentile_range
from tempoquant.numerics.weights import nearest, weight_qparams


def _full_search(row: np.ndarray, bits: int, symmetric: bool) -> float:
    """The winning shrink factor of one row by a plain float64 loop over all 80 candidates."""
    low, high = min(row.min(), 0), max(row.max(), 0)
    scores = []
    for i in range(80):
        shrink = 1 - 0.01 * i
        if symmetric:
            top = 2 ** (bits - 1) - 1
            scale, zero, q_min, q_max = max(-low, high) * shrink / top, 0, -top - 1, top
        else:
            q_min, q_max = 0, 2**bits - 1
            scale = (high - low) * shrink / q_max
            zero = np.round(-low * shrink / scale)
        q = np.clip(np.round(row / scale) + zero, q_min, q_max)
        scores.append((np.abs(scale * (q - zero) - row) ** 2.4).mean())
    return scores


@pytest.mark.parametrize(("bits", "symmetric"), [(4, False), (8, True), (3, False), (6, True)])
def test_same_winner_as_the_full_search(bits, symmetric):
    rows = torch.randn(12, 300, generator=torch.Generator().manual_seed(bits))
    rows[3] = rows[3].abs()
    rows[5, 0] = 30.0
    low, high = mse_range(rows, bits, symmetric)
    for row, top, lo, hi in zip(rows, rows.amax(1), low, high, strict=True):
        scores = _full_search(row.double().numpy(), bits, symmetric)
        reach = max(-float(row.min()), float(top)) if symmetric else float(top)
        index = round((1 - float(hi) / reach) / 0.01)
        assert scores[index] <= min(scores) * (1 + 1e-5)
        assert float(lo) <= 0


def test_tiles_do_not_change_the_winner(monkeypatch):
    rows = torch.randn(40, 200, generator=torch.Generator().manual_seed(1))
    whole = mse_range(rows, 4)
    monkeypatch.setattr("tempoquant.numerics.search.TILE", 1)
    assert all(torch.equal(a, b) for a, b in zip(whole, mse_range(rows, 4), strict=True))


def test_percentile_agrees_with_numpy():
    rows = torch.randn(3, 5000, generator=torch.Generator().manual_seed(2))
    low, high = percentile_range(rows, 99.0)
    np.testing.assert_allclose(low, np.percentile(rows.numpy(), 0.5, axis=1), rtol=1e-5)
    np.testing.assert_allclose(high, np.percentile(rows.numpy(), 99.5, axis=1), rtol=1e-5)


@pytest.mark.parametrize("bits", [2, 4, 8])
def test_constant_and_zero_rows_stay_finite(bits):
    weight = torch.stack([torch.zeros(9), torch.full((9,), 3.0), torch.full((9,), -2.0)])
    qparams = weight_qparams(weight, bits, symmetric=False, search="mse")
    integers = nearest(weight, qparams)
    torch.testing.assert_close(integers * qparams.scale, weight)
