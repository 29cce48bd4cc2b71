"""Inception score, kernel distance (KID), improved precision and recall: functions of features, in float64."""

import math

import torch
from torch import Tensor

from tempoquant.errors import InputError
from tempoquant.randomness import rng

SPLITS = 10
SUBSETS, SUBSET_SIZE = 100, 1000
NEIGHBOURS = 3
BLOCK = 1024
"""Rows whose distances to all others are in memory together."""


def inception_score(logits: Tensor, splits: int = SPLITS) -> tuple[float, float]:
    """Mean and standard deviation over splits of ``exp(E_x KL(p(y|x) || p(y)))`` (Salimans et al. 2016, section 4).

    Splits are runs of neighbouring rows, ``p(y)`` is each split's own, and the deviation is divided by their number.

    Args:
        logits: (N, classes) of any float dtype.
        splits: at most N.

    Raises:
        InputError: fewer rows than splits.
    """
    if not 1 <= splits <= len(logits):
        raise InputError(f"an Inception score in {splits} splits needs as many images, not {len(logits)}")
    log_p = logits.double().log_softmax(1)
    scores = []
    for part in log_p.tensor_split([len(log_p) * i // splits for i in range(1, splits)]):
        marginal = part.logsumexp(0) - math.log(len(part))
        scores.append((part.exp() * (part - marginal)).sum(1).mean().exp())
    values = torch.stack(scores)
    return float(values.mean()), float(values.std(correction=0))


def subset_size(real: int, generated: int) -> int:
    """Rows a subset of :func:`kernel_distance`: 1000, or half of the smaller set if it has fewer than 1000.

    Args:
        real: number of real images.
        generated: number of generated images.
    """
    smaller = min(real, generated)
    return SUBSET_SIZE if smaller >= SUBSET_SIZE else smaller // 2


def kernel_distance(
    real: Tensor, generated: Tensor, *, subsets: int = SUBSETS, size: int | None = None, seed: int = 0
) -> tuple[float, float]:
    """Mean and standard deviation over random subsets of the unbiased squared MMD (Binkowski et al. 2018).

    The kernel is ``k(x, y) = (x . y / D + 1)^3`` (their section 4); values just below zero are valid.

    Args:
        real: features (N, D).
        generated: features (M, D).
        subsets: number of random subsets.
        size: rows a subset, drawn without replacement; None for :func:`subset_size`.
        seed: of the subsets.

    Raises:
        InputError: subsets of fewer than two rows, or of more than there are.
    """
    size = subset_size(len(real), len(generated)) if size is None else size
    if not 2 <= size <= min(len(real), len(generated)):
        raise InputError(
            f"KID subsets of {size} rows are not possible with {len(real)} real and {len(generated)} generated images: "
            "at least 2 rows, and at most the smaller number, are needed"
        )
    real, generated = real.double(), generated.double()
    values = torch.tensor([_mmd(*_subset(real, generated, size, seed, i)) for i in range(subsets)], dtype=torch.float64)
    return float(values.mean()), float(values.std(correction=0))


def precision_recall(real: Tensor, generated: Tensor, neighbours: int = NEIGHBOURS) -> tuple[float, float]:
    """Improved precision and recall (Kynkaanniemi et al. 2019, eq. 1 and 2).

    A set's manifold is the union of balls around its rows, each as wide as the distance to the row's k-th nearest
    other. Precision is the share of generated rows within the real manifold, recall of real rows within the
    generated one.

    Args:
        real: features (N, D).
        generated: features (M, D).
        neighbours: k.

    Raises:
        InputError: a set has no k other rows.
    """
    if not 1 <= neighbours < min(len(real), len(generated)):
        counts = f"{len(real)} real and {len(generated)} generated images"
        raise InputError(f"precision and recall with {neighbours} neighbours need more than {counts}")
    real, generated = real.double(), generated.double()
    return _share_within(generated, real, neighbours), _share_within(real, generated, neighbours)


def _subset(real: Tensor, generated: Tensor, size: int, seed: int, index: int) -> tuple[Tensor, Tensor]:
    rows = [
        torch.randperm(len(side), generator=rng("KID", seed, name, index))[:size]
        for name, side in (("real", real), ("generated", generated))
    ]
    return real[rows[0]], generated[rows[1]]


def _mmd(x: Tensor, y: Tensor) -> Tensor:
    """Unbiased squared maximum mean discrepancy: within a set the diagonal is left out."""
    size = len(x)
    within = sum(k.sum() - k.trace() for k in (_kernel(x, x), _kernel(y, y)))
    return within / (size * (size - 1)) - 2 * _kernel(x, y).mean()


def _kernel(x: Tensor, y: Tensor) -> Tensor:
    return (x @ y.T / x.shape[1] + 1) ** 3


def _share_within(rows: Tensor, centres: Tensor, neighbours: int) -> float:
    # The nearest row of a centre is itself, hence one more.
    radii = torch.cat([torch.cdist(block, centres).kthvalue(neighbours + 1).values for block in centres.split(BLOCK)])
    inside = [(torch.cdist(block, centres) <= radii).any(1) for block in rows.split(BLOCK)]
    return float(torch.cat(inside).double().mean())
