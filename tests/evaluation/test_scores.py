"""Inception score, kernel distance, precision and recall against naive loops and scikit-learn."""

import math

import numpy as np
import pytest
import torch

from tempoquant.errors import InputError
from tempoquant.evaluation.scores import inception_score, kernel_distance, precision_recall, subset_size


def cloud(count, dimensions, seed, scale=1.0, shift=0.0):
    draw = torch.Generator().manual_seed(seed)
    return torch.randn(count, dimensions, generator=draw) * scale + shift


def test_inception_score_worked_by_hand():
    # Certain and spread evenly over four classes: exp(log 4) = 4. Always the same answer: exp(0) = 1.
    certain = torch.eye(4) * 1000
    assert inception_score(certain, splits=1) == pytest.approx((4, 0))
    assert inception_score(torch.ones(6, 3), splits=2) == pytest.approx((1, 0))
    # Rows (3/4, 1/4) and (1/4, 3/4): the marginal is even, KL = 3/4 log(3/2) + 1/4 log(1/2) for both.
    two = torch.tensor([[0.75, 0.25], [0.25, 0.75]]).log()
    wanted = math.exp(0.75 * math.log(1.5) + 0.25 * math.log(0.5))
    assert inception_score(two, splits=1)[0] == pytest.approx(wanted)
    # Two splits of two rows: 2 and 1, so 1.5 +- 0.5.
    mixed = torch.stack([certain[0], certain[1], certain[2], certain[2]])
    assert inception_score(mixed, splits=2) == pytest.approx((1.5, 0.5))


def test_inception_score_of_uneven_splits():
    logits = cloud(25, 7, 0) * 2
    p = torch.softmax(logits.double(), 1).numpy()
    scores = []
    for i in range(4):
        part = p[i * 25 // 4 : (i + 1) * 25 // 4]
        divergences = [sum(q * math.log(q / m) for q, m in zip(row, part.mean(0), strict=True)) for row in part]
        scores.append(math.exp(sum(divergences) / len(divergences)))
    assert inception_score(logits, splits=4) == pytest.approx((np.mean(scores), np.std(scores)))
    with pytest.raises(InputError, match="in 26 splits needs as many images, not 25"):
        inception_score(logits, splits=26)


def naive_mmd(x, y):
    def k(a, b):
        return (sum(p * q for p, q in zip(a, b, strict=True)) / len(a) + 1) ** 3

    n = len(x)
    within = sum(k(s[i], s[j]) for s in (x, y) for i in range(n) for j in range(n) if i != j)
    across = sum(k(a, b) for a in x for b in y)
    return within / (n * (n - 1)) - 2 * across / n**2


def test_kernel_distance_is_the_naive_double_loop():
    # Subsets of everything leave only the order to chance, and the sums do not depend on it.
    x, y = cloud(9, 4, 0), cloud(9, 4, 1, shift=0.5)
    wanted = naive_mmd(x.double().tolist(), y.double().tolist())
    assert kernel_distance(x, y, subsets=3, size=9) == pytest.approx((wanted, 0), rel=1e-12, abs=1e-12)


def test_kernel_distance_is_unbiased_over_subsets():
    x, y = cloud(12, 3, 0), cloud(10, 3, 1, scale=1.5)
    mean, std = kernel_distance(x, y, subsets=6000, size=4)
    # The mean over all pairs of subsets is the estimate with every row of both.
    k = lambda a, b: (a.double() @ b.double().T / 3 + 1) ** 3  # noqa: E731
    within = sum((k(s, s).sum() - k(s, s).trace()) / (len(s) * (len(s) - 1)) for s in (x, y))
    wanted = float(within - 2 * k(x, y).mean())
    assert std > 0 and mean == pytest.approx(wanted, abs=4 * std / math.sqrt(6000))


def test_kernel_distance_repeats_and_depends_on_its_seed():
    x, y = cloud(40, 3, 0), cloud(50, 3, 1)
    torch.manual_seed(0)
    first = kernel_distance(x, y, subsets=5, seed=3)
    torch.manual_seed(1)
    assert kernel_distance(x, y, subsets=5, seed=3) == first != kernel_distance(x, y, subsets=5, seed=4)
    assert (subset_size(40, 50), subset_size(999, 5000), subset_size(1000, 5000)) == (20, 499, 1000)
    with pytest.raises(InputError, match="subsets of 41 rows are not possible with 40 real and 50 generated"):
        kernel_distance(x, y, size=41)


def brute_force(rows, centres, k):
    """Share of rows in a ball around a centre that reaches its k-th nearest other."""
    rows, centres = rows.double().numpy(), centres.double().numpy()
    inside = 0
    radii = [sorted(np.linalg.norm(centres - c, axis=1))[k] for c in centres]
    for row in rows:
        inside += any(np.linalg.norm(row - c) <= r for c, r in zip(centres, radii, strict=True))
    return inside / len(rows)


@pytest.mark.parametrize("k", [1, 3])
def test_precision_and_recall_are_the_brute_force_ones(k):
    real, generated = cloud(60, 5, 0), cloud(45, 5, 1, scale=0.6, shift=0.9)
    precision, recall = precision_recall(real, generated, k)
    assert precision == pytest.approx(brute_force(generated, real, k))
    assert recall == pytest.approx(brute_force(real, generated, k))
    assert 0 < recall < precision < 1


def test_precision_and_recall_agree_with_scikit_learn():
    neighbors = pytest.importorskip("sklearn.neighbors")
    real, generated = cloud(1500, 8, 0), cloud(1300, 8, 1, scale=0.7)

    def share(rows, centres):
        tree = neighbors.NearestNeighbors(algorithm="kd_tree").fit(centres.double().numpy())
        radii = tree.kneighbors(n_neighbors=3)[0][:, -1]
        distances = neighbors.NearestNeighbors(algorithm="brute").fit(centres.double().numpy())
        near = distances.kneighbors(rows.double().numpy(), n_neighbors=len(centres))
        return float((near[0] <= radii[near[1]]).any(1).mean())

    assert precision_recall(real, generated) == pytest.approx((share(generated, real), share(real, generated)))


def test_precision_and_recall_worked_by_hand():
    # Real 0, 1, 2, 3 on a line with radius 1 (k = 1); generated 0.5, 3.9, 5, 5.2 with radii 3.4, 1.1, 0.2, 0.2.
    real, generated = torch.tensor([[0.0], [1], [2], [3]]), torch.tensor([[0.5], [3.9], [5], [5.2]])
    assert precision_recall(real, generated, 1) == (0.5, 1.0)
    assert precision_recall(real, real, 1) == (1, 1) and precision_recall(real, real + 100, 1) == (0, 0)
    with pytest.raises(InputError, match="4 neighbours need more than 4 real"):
        precision_recall(real, generated, 4)
