"""What calibration keeps of an activation: for every row its extremes by sample and a fixed number of values."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from tempoquant.extension import ACTIVATION_RANGES
from tempoquant.numerics import QParams, affine_qparams, minmax_range, mse_range, percentile_range
from tempoquant.randomness import rng

VALUES = 1024
EMA_MOMENTUM = 0.95
EMA_BATCH = 16


ACTIVATION_RANGES.register("mse")(mse_range)


@ACTIVATION_RANGES.register("minmax")
@ACTIVATION_RANGES.register("ema")
def _minmax(values: Tensor, bits: int, symmetric: bool) -> tuple[Tensor, Tensor]:
    return minmax_range(values)


@ACTIVATION_RANGES.register("percentile")
def _percentile(values: Tensor, bits: int, symmetric: bool) -> tuple[Tensor, Tensor]:
    return percentile_range(values)


@dataclass
class RangeObserver:
    """Extremes and a sample of the values of one quantizer's input, by row (time step), in bounded memory.

    Attributes:
        key: names the draw of values.
        always_zero: the range starts at zero (a softmax output).
        lows: for every row, least values of items, (n,) a call.
        highs: for every row, greatest values of items.
        values: for every row, at most ``VALUES`` drawn values.
    """

    key: tuple
    always_zero: bool = False
    lows: list[list[Tensor]] = field(default_factory=list)
    highs: list[list[Tensor]] = field(default_factory=list)
    values: list[list[Tensor]] = field(default_factory=list)

    def observe(self, row: int, x: Tensor, samples: int, values: int = VALUES) -> None:
        """Add an input at ``row``; rows come in ascending order.

        Args:
            row: of the clock.
            x: of any shape whose first axis has k ``samples``.
            samples: how many items it was computed for.
            values: how many of its values are kept at most, drawn at random.
        """
        while len(self.lows) <= row:
            for part in (self.lows, self.highs, self.values):
                part.append([])
        items = x.detach().float().reshape(samples if x.shape[0] % samples == 0 else 1, -1)
        self.lows[row].append(items.amin(1))
        self.highs[row].append(items.amax(1))
        flat = items.flatten()
        if flat.numel() > values:
            draw = rng(*self.key, row, len(self.values[row]))
            flat = flat[torch.randint(flat.numel(), (values,), generator=draw)]
        self.values[row].append(flat)

    def extremes(self, rows: Sequence[int]) -> tuple[Tensor, Tensor]:
        """Least and greatest value of each of R rows: (R,), (R,)."""
        return torch.stack([torch.cat(self.lows[r]).min() for r in rows]), torch.stack(
            [torch.cat(self.highs[r]).max() for r in rows]
        )

    def moving_extremes(self, rows: Sequence[int]) -> tuple[Tensor, Tensor]:
        """Exponential moving averages of batch extremes: m <- 0.95 m + 0.05 batch, batches of 16 (TFMQ-DM's code)."""
        return _moving([self.lows[r] for r in rows], torch.amin), _moving([self.highs[r] for r in rows], torch.amax)

    def qparams(self, bits: int, search: str, groups: Sequence[int], count: int, symmetric: bool = False) -> QParams:
        """Scale and zero point of every group of rows, on an unsigned grid: (N,) each.

        Args:
            bits: width.
            search: a name of :data:`ACTIVATION_RANGES`, such as "minmax", "percentile" (99.9) or "mse" (p = 2.4, 80
                candidates); "ema" takes moving averages of the extremes, all others the values that were drawn.
            groups: the group of every row, 0 to N - 1.
            count: N; a group of which nothing was observed gets what all get.
            symmetric: zero points in the middle; a softmax output stays unsigned.
        """
        observed = [row for row, parts in enumerate(self.lows) if parts]
        symmetric = symmetric and not self.always_zero
        if search == "ema":
            rows = dict(zip(observed, torch.stack(self.moving_extremes(observed), 1), strict=True))
        else:
            extremes = zip(observed, *self.extremes(observed), strict=True)
            rows = {r: torch.cat([*self.values[r], low[None], high[None]]) for r, low, high in extremes}
        members = [[rows[row] for row in observed if groups[row] == n] or [*rows.values()] for n in range(count)]
        low, high = _searched([torch.cat(found) for found in members], bits, search, symmetric)
        if self.always_zero:
            low = torch.zeros_like(low)
        return affine_qparams(low, high, bits, symmetric).unsigned()


def _searched(pools: list[Tensor], bits: int, search: str, symmetric: bool) -> tuple[Tensor, Tensor]:
    """The range of every pool of values, pools of one length together: (N,), (N,)."""
    low, high = torch.empty(len(pools)), torch.empty(len(pools))
    for length in {pool.numel() for pool in pools}:
        chosen = [i for i, pool in enumerate(pools) if pool.numel() == length]
        table = torch.stack([pools[i] for i in chosen])
        low[chosen], high[chosen] = ACTIVATION_RANGES[search](table, bits, symmetric)
    return low, high


def _moving(parts: list[list[Tensor]], extreme) -> Tensor:
    averages = []
    for row in parts:
        batches = torch.cat(row).split(EMA_BATCH)
        average = extreme(batches[0])
        for batch in batches[1:]:
            average = EMA_MOMENTUM * average + (1 - EMA_MOMENTUM) * extreme(batch)
        averages.append(average)
    return torch.stack(averages)
