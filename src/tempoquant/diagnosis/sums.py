"""Running sums over pairs of tensors, from which errors are computed without keeping the tensors."""

from collections.abc import Sequence

import torch
from torch import Tensor


class PairSums:
    """Sums of ``a^2``, ``b^2``, ``a b`` and ``(a - b)^2`` over all elements of the pairs of a name and step.

    Metrics are NaN for a name and step without a pair.

    Args:
        names: N, of what is compared.
        steps: K.

    Attributes:
        row: index of each name in the sums.
        aa, bb, ab, ee: (N, K) float64 sums; ``a`` is full precision, ``e = a - b``.
        missing: (N, K) bool, where no pair was added.
    """

    def __init__(self, names: Sequence[str], steps: int):
        self.row = {name: i for i, name in enumerate(names)}
        self.aa, self.bb, self.ab, self.ee = torch.zeros(4, len(names), steps, dtype=torch.float64)
        self.missing = torch.ones(len(names), steps, dtype=torch.bool)

    def add(self, name: str, step: int, a: Tensor, b: Tensor) -> None:
        """Add one pair of tensors.

        Args:
            name: one of ``names``.
            step: index, below K.
            a: full precision, of any shape.
            b: quantized, of the same number of elements.
        """
        a, b = a.detach().double().flatten(), b.detach().double().flatten()
        at = self.row[name], step
        self.missing[at] = False
        self.aa[at] += float(a @ a)
        self.bb[at] += float(b @ b)
        self.ab[at] += float(a @ b)
        self.ee[at] += float((a - b).square().sum())

    def cosine(self) -> Tensor:
        """``<a, b> / (|a| |b|)``, (N, K) float64; 1 where both are zero, 0 where one is."""
        lengths = (self.aa * self.bb).sqrt()
        both_zero = (self.aa == 0) & (self.bb == 0)
        cosine = torch.where(both_zero, 1.0, self.ab / lengths.clamp_min(torch.finfo(torch.float64).tiny))
        return cosine.masked_fill(self.missing, torch.nan)

    def relative_error(self) -> Tensor:
        """``|a - b| / |a|``, (N, K) float64; 0 where they are equal."""
        return torch.where(self.ee == 0, 0.0, (self.ee / self.aa).sqrt()).masked_fill(self.missing, torch.nan)

    def sqnr_db(self) -> Tensor:
        """``10 log10(|a|^2 / |a - b|^2)`` in dB, (N, K) float64; infinite where they are equal."""
        ratio = torch.where(self.ee == 0, torch.inf, 10 * torch.log10(self.aa / self.ee))
        return ratio.masked_fill(self.missing, torch.nan)
