"""Sums over pairs (e, q) of full-precision and quantized noise predictions: all that a correction is fitted from."""

import torch
from torch import Tensor


class PairSums:
    """Streaming float64 sums by row and channel; no prediction is kept.

    Args:
        rows: R, rows of the clock.

    Attributes:
        sums: (6, R, C): the count, and the sums of e, q, e^2, q^2 and e q. None before the first pair.
    """

    def __init__(self, rows: int):
        self.rows = rows
        self.sums: Tensor | None = None

    def add(self, row: int, full: Tensor, quantized: Tensor) -> None:
        """Add predictions (B, C, ...) of both denoisers at the same inputs, any float dtype, to the sums of ``row``."""
        e, q = (x.detach().cpu().double().transpose(0, 1).flatten(1) for x in (full, quantized))
        if self.sums is None:
            self.sums = torch.zeros(6, self.rows, e.shape[0], dtype=torch.float64)
        terms = (torch.ones_like(e), e, q, e * e, q * q, e * q)
        self.sums[:, row] += torch.stack([term.sum(1) for term in terms])

    @property
    def missing(self) -> list[int]:
        """Rows without a pair."""
        return list(range(self.rows)) if self.sums is None else (self.sums[0, :, 0] == 0).nonzero()[:, 0].tolist()

    def by_channel(self) -> tuple[Tensor, ...]:
        """Count, and sums of e, q, e^2, q^2 and e q: (R, C) each."""
        assert self.sums is not None
        return self.sums.unbind()

    def snr(self) -> Tensor:
        """The quantization's signal-to-noise ratio ``sum e^2 / sum (q - e)^2`` (PTQD's SNR_Q): (R,) float64."""
        _, _, _, ee, qq, eq = (part.sum(1) for part in self.by_channel())
        return ee / (qq - 2 * eq + ee).clamp_min(torch.finfo(torch.float64).tiny)
