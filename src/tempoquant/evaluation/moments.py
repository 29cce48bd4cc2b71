"""Gaussians fitted to features batch by batch, and the Frechet distance between two of them."""

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Gaussian:
    """A fitted normal distribution.

    Attributes:
        mean: (D,) float64.
        covariance: (D, D) float64, unbiased.
        count: samples that it was fitted to; None for a file that does not name it.
    """

    mean: Tensor
    covariance: Tensor
    count: int | None


class Moments:
    """Running mean and covariance of rows, accumulated batch by batch in float64.

    Batches are merged by their means and scatter matrices (Chan, Golub and LeVeque 1983), so that a mean far
    from zero costs no digits, as it would in sums of squares.
    """

    def __init__(self) -> None:
        self.count = 0
        self.mean = self.scatter = torch.zeros(0, dtype=torch.float64)

    def update(self, rows: Tensor) -> None:
        """Add rows (N, D) of any float dtype."""
        rows = rows.double().cpu()
        count, mean = len(rows), rows.mean(0)
        centred = rows - mean
        if not self.count:
            self.count, self.mean, self.scatter = count, mean, centred.T @ centred
            return
        total, shift = self.count + count, mean - self.mean
        self.scatter = self.scatter + centred.T @ centred + torch.outer(shift, shift) * (self.count * count / total)
        self.mean = self.mean + shift * (count / total)
        self.count = total

    def fitted(self) -> Gaussian:
        """The Gaussian of the rows so far; at least two are needed."""
        return Gaussian(self.mean, self.scatter / (self.count - 1), self.count)


def frechet(a: Gaussian, b: Gaussian) -> float:
    """Squared Frechet distance ``|m1 - m2|^2 + tr(C1 + C2 - 2 (C1 C2)^(1/2))`` (Dowson and Landau 1982).

    ``C1 C2`` has the eigenvalues of the symmetric ``C1^(1/2) C2 C1^(1/2)``, so only symmetric problems are solved and
    singular covariances need no small number on their diagonal.
    """
    values, vectors = torch.linalg.eigh(a.covariance)
    root = vectors * values.clamp(min=0).sqrt() @ vectors.T
    cross = torch.linalg.eigvalsh(root @ b.covariance @ root).clamp(min=0).sqrt().sum()
    traces = a.covariance.trace() + b.covariance.trace() - 2 * cross
    return float((a.mean - b.mean).square().sum() + traces)
