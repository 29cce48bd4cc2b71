"""Running sums over pairs of tensors, from which errors are told without keeping the tensors."""

from collections.abc import Sequence

import torch
from torch import Tensor


class PairSums:
    """For every name and step, sums over all elements of ``a`` (full precision) and ``b`` seen there; else NaN.

    Args:
        names: what is compared. steps: K.
    """

    def __init__(self, names: Sequence[str], steps: int):
        self.row = {name: i for i, name in enumerate(names)}
        self.aa, self.bb, self.ab, self.ee = torch.zeros(4, len(names), steps, dtype=torch.float64)
        self.unseen = torch.ones(len(names), steps, dtype=torch.bool)

    def add(self, name: str, step: int, a: Tensor, b: Tensor) -> None:
        """See one pair of equal shapes."""
        a, b = a.detach().double().flatten(), b.detach().double().flatten()
        at = self.row[name], step
        self.unseen[at] = False
        self.aa[at] += float(a @ a)
        self.bb[at] += float(b @ b)
        self.ab[at] += float(a @ b)
        self.ee[at] += float((a - b).square().sum())

    def cosine(self) -> Tensor:
        """``<a, b> / (|a| |b|)``, (N, K) float64; 1 where both are zero, 0 where one is."""
        lengths = (self.aa * self.bb).sqrt()
        both_zero = (self.aa == 0) & (self.bb == 0)
        cosine = torch.where(both_zero, 1.0, self.ab / lengths.clamp_min(torch.finfo(torch.float64).tiny))
        return cosine.masked_fill(self.unseen, torch.nan)

    def relative_error(self) -> Tensor:
        """``|a - b| / |a|``, (N, K) float64; 0 where they are equal."""
        return torch.where(self.ee == 0, 0.0, (self.ee / self.aa).sqrt()).masked_fill(self.unseen, torch.nan)

    def sqnr_db(self) -> Tensor:
        """``10 log10(|a|^2 / |a - b|^2)``, (N, K) float64; infinite where they are equal."""
        ratio = torch.where(self.ee == 0, torch.inf, 10 * torch.log10(self.aa / self.ee))
        return ratio.masked_fill(self.unseen, torch.nan)
