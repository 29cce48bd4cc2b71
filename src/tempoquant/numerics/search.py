"""Choosing a range: min-max, percentile, and the p-norm search over shrunk ranges (LAPQ; BRECQ, Q-Diffusion, TFMQ-DM).

The search scores every candidate range of every row exactly; it is fast because candidates and rows are one batched
tensor computation in tiles that stay in the processor's cache.
"""

import torch
from torch import Tensor

from tempoquant.numerics.affine import SMALLEST_SCALE, grid

CANDIDATES = 80
NORM = 2.4
TILE = 1 << 18
"""Elements of a tile: candidates x rows x columns whose temporaries fit a core's second-level cache."""


def minmax_range(rows: Tensor) -> tuple[Tensor, Tensor]:
    """Smallest and largest value of every row of (R, K), each (R,)."""
    return rows.amin(1), rows.amax(1)


def percentile_range(rows: Tensor, percentile: float = 99.9) -> tuple[Tensor, Tensor]:
    """The central ``percentile`` per cent of every row of (R, K): (R,) and (R,), linear interpolation."""
    tail = (100 - percentile) / 200
    ordered = rows.float().sort(1).values
    position = torch.tensor([tail, 1 - tail], dtype=torch.float64) * (rows.shape[1] - 1)
    below = position.floor().long()
    above = (below + 1).clamp(max=rows.shape[1] - 1)
    part = (position - below).float()
    low, high = ordered[:, below].lerp(ordered[:, above], part).unbind(1)
    return low, high


def mse_range(
    rows: Tensor, bits: int, symmetric: bool = False, p: float = NORM, candidates: int = CANDIDATES
) -> tuple[Tensor, Tensor]:
    """The range, among ``(1 - 0.8 i / candidates) [min, max]``, with the least ``mean |x_hat - x|^p``, for every row.

    Ranges are widened to contain zero before they are shrunk. Equal scores go to the wider range. (Section "mse" of
    the LAPQ family; with 80 candidates the step is 1 %.)

    Args:
        rows: (R, K) float.
        bits, symmetric: the grid that is scored.

    Returns:
        low, high: (R,) float32 each.
    """
    rows = rows.float().contiguous()
    low, high = minmax_range(rows)
    low, high = low.clamp(max=0), high.clamp(min=0)
    if symmetric:
        high = torch.maximum(-low, high)
        low = -high
    shrink = 1 - torch.arange(candidates, dtype=torch.float32) * (0.8 / candidates)
    best = torch.empty(rows.shape[0], dtype=torch.long)
    step = max(1, TILE // (candidates * rows.shape[1]))
    for start in range(0, rows.shape[0], step):
        tile = slice(start, start + step)
        best[tile] = _scores(rows[tile], low[tile], high[tile], shrink, bits, symmetric, p).argmin(1)
    return low * shrink[best], high * shrink[best]


def _scores(x: Tensor, low: Tensor, high: Tensor, shrink: Tensor, bits: int, symmetric: bool, p: float) -> Tensor:
    """Sum of |x_hat - x|^p for every row (R,) and candidate (C,): (R, C)."""
    q_min, q_max = grid(bits, symmetric)
    width = high[:, None] * shrink if symmetric else (high - low)[:, None] * shrink
    scale = (width / q_max).clamp(min=SMALLEST_SCALE)
    zero = torch.zeros_like(scale) if symmetric else torch.round(-low[:, None] * shrink / scale)
    units = x[:, None, :] * (1 / scale)[:, :, None]
    rounded = units.round()
    rounded = torch.clamp(rounded, (q_min - zero)[:, :, None], (q_max - zero)[:, :, None], out=rounded)
    error = units.sub_(rounded).abs_()
    return error.pow_(p).sum(2) * scale.pow(p)
