"""What calibration keeps of an activation whose tokens have a scale each: extremes of every position, by row."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from tempoquant.errors import InputError
from tempoquant.intervals import token_count
from tempoquant.numerics import QParams, affine_qparams


@dataclass
class TokenObserver:
    """Least and greatest values of each token's position over the rows (time steps).

    Attributes:
        site: names the activation in messages.
        lows: by row, (P,).
        highs: by row, (P,).
    """

    site: str
    lows: dict[int, Tensor] = field(default_factory=dict)
    highs: dict[int, Tensor] = field(default_factory=dict)

    def observe(self, row: int, x: Tensor, samples: int, values: int) -> None:
        """Add an input, (B, ..., P, C) or (B, C), at ``row``; ``samples`` and ``values`` do not matter.

        Raises:
            InputError: its number of tokens differs from that of earlier ones.
        """
        tokens = x.detach().float().reshape(-1, token_count(x), x.shape[-1])
        low, high = tokens.amin((0, 2)), tokens.amax((0, 2))
        for before in self.lows.values():
            if len(before) != len(low):
                raise InputError(
                    f"{self.site} takes {len(before)} tokens and {len(low)}: scales of tokens need a fixed number, "
                    "unless activations.dynamic is true"
                )
            break
        self.lows[row] = torch.minimum(low, self.lows.get(row, low))
        self.highs[row] = torch.maximum(high, self.highs.get(row, high))

    def qparams(self, bits: int, search: str, groups: Sequence[int], count: int, symmetric: bool = False) -> QParams:
        """Scale and zero point of every group of rows, on an unsigned grid: (N, P) each.

        Args:
            bits: width.
            search: least and greatest values decide, whatever it is: recipes allow "minmax" alone.
            groups: the group of every row, 0 to N - 1.
            count: N; a group of which nothing was observed gets what all get.
            symmetric: zero points in the middle.
        """
        rows = sorted(self.lows)
        members = [[row for row in rows if groups[row] == n] or rows for n in range(count)]
        low = torch.stack([torch.stack([self.lows[row] for row in group]).amin(0) for group in members])
        high = torch.stack([torch.stack([self.highs[row] for row in group]).amax(0) for group in members])
        return affine_qparams(low, high, bits, symmetric).unsigned()
