"""Gaussians of features that stream by, and the distance between two."""

import numpy as np
import pytest
import torch
from scipy.linalg import sqrtm

from tempoquant.evaluation.moments import Gaussian, Moments, frechet


def rows(count, dimensions, seed=0):
    draw = torch.Generator().manual_seed(seed)
    mixing = torch.randn(dimensions, dimensions, generator=draw, dtype=torch.float64)
    return torch.randn(count, dimensions, generator=draw, dtype=torch.float64) @ mixing + 3


def fitted(x):
    moments = Moments()
    moments.update(x)
    return moments.fitted()


def gaussian(mean, covariance):
    return Gaussian(torch.tensor(mean).double(), torch.tensor(covariance).double(), None)


def with_scipy(a, b):
    c1, c2 = a.covariance.numpy(), b.covariance.numpy()
    shift = (a.mean - b.mean).numpy()
    return shift @ shift + np.trace(c1 + c2 - 2 * sqrtm(c1 @ c2).real)


@pytest.mark.parametrize("sizes", [(1, 1, 98), (37, 63), (1,) * 100])
def test_batches_give_what_all_rows_at_once_give(sizes):
    x = rows(100, 6)
    moments = Moments()
    for part in x.split(list(sizes)):
        moments.update(part)
    found = moments.fitted()
    np.testing.assert_allclose(found.mean.numpy(), x.numpy().mean(0), rtol=1e-13)
    np.testing.assert_allclose(found.covariance.numpy(), np.cov(x.numpy(), rowvar=False), rtol=1e-11, atol=1e-12)
    assert found.count == 100


def test_a_mean_far_from_zero_costs_no_digits():
    x = rows(200, 3)
    moments = Moments()
    for part in (x + 1e7).split(20):
        moments.update(part)
    wanted = np.cov(x.numpy(), rowvar=False)
    # Sums of squares would keep two digits of these: eps * (1e7)^2 = 0.02.
    np.testing.assert_allclose(moments.fitted().covariance.numpy(), wanted, rtol=1e-6)


def test_known_distances():
    unit = np.eye(2)
    assert frechet(gaussian([0.0, 0.0], unit), gaussian([3.0, 4.0], unit)) == pytest.approx(25)
    # Commuting covariances: sum of (sqrt(a) - sqrt(b))^2 = (2 - 1)^2 + (3 - 5)^2.
    a, b = gaussian([0.0, 0.0], np.diag([4.0, 9.0])), gaussian([0.0, 0.0], np.diag([1.0, 25.0]))
    assert frechet(a, b) == pytest.approx(5)
    # One that does not commute: [[2,1],[1,2]] and diag(1,4), C1 C2 = [[2,4],[1,8]]: tr sqrt = sqrt(10 + 2 sqrt(12)).
    c = gaussian([0.0, 0.0], [[2.0, 1.0], [1.0, 2.0]])
    d = gaussian([0.0, 0.0], np.diag([1.0, 4.0]))
    assert frechet(c, d) == pytest.approx(4 + 5 - 2 * np.sqrt(10 + 2 * np.sqrt(12)))
    assert frechet(c, c) == pytest.approx(0, abs=1e-12)


@pytest.mark.parametrize("dimensions", [1, 5, 40])
def test_distance_is_scipys(dimensions):
    a, b = fitted(rows(200, dimensions)), fitted(rows(150, dimensions, seed=1) * 0.5 + 1)
    assert frechet(a, b) == pytest.approx(with_scipy(a, b), rel=1e-8)
    assert frechet(a, b) == pytest.approx(frechet(b, a), rel=1e-10)


def test_singular_covariances():
    # Five points in eight dimensions; equal sets are at distance zero, shifted ones at the squared shift.
    x = rows(5, 8)
    assert frechet(fitted(x), fitted(x)) == pytest.approx(0, abs=1e-5)
    assert frechet(fitted(x), fitted(x + 2)) == pytest.approx(8 * 4, rel=1e-6)
