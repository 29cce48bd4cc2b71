"""What calibration keeps of an activation: for every row its extremes by sample and a fixed number of values."""

from dataclasses import dataclass, field

import torch
from torch import Tensor

from tempoquant.extension import ACTIVATION_RANGES
from tempoquant.numerics import QParams, affine_qparams, minmax_range, mse_range, percentile_range
from tempoquant.randomness import generator

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
class Spread:
    """The spread of one quantizer's input over the rows (time steps), in bounded memory.

    Attributes:
        key: names the draw of values. always_zero: the range starts at zero (a softmax output).
        lows, highs: for every row, extremes by sample (n,). values: for every row, ``VALUES`` drawn values.
    """

    key: tuple
    always_zero: bool = False
    lows: list[list[Tensor]] = field(default_factory=list)
    highs: list[list[Tensor]] = field(default_factory=list)
    values: list[list[Tensor]] = field(default_factory=list)

    def see(self, row: int, x: Tensor, samples: int) -> None:
        """Take in an input that ``samples`` samples gave at ``row``; rows come in ascending order."""
        while len(self.lows) <= row:
            for part in (self.lows, self.highs, self.values):
                part.append([])
        items = x.detach().float().reshape(samples if x.shape[0] % samples == 0 else 1, -1)
        self.lows[row].append(items.amin(1))
        self.highs[row].append(items.amax(1))
        flat = items.flatten()
        if flat.numel() > VALUES:
            draw = generator(*self.key, row, len(self.values[row]))
            flat = flat[torch.randint(flat.numel(), (VALUES,), generator=draw)]
        self.values[row].append(flat)

    def extremes(self) -> tuple[Tensor, Tensor]:
        """Smallest and largest value of every row: (R,), (R,)."""
        return torch.stack([torch.cat(r).min() for r in self.lows]), torch.stack(
            [torch.cat(r).max() for r in self.highs]
        )

    def moving_extremes(self) -> tuple[Tensor, Tensor]:
        """Exponential moving averages of batch extremes: m <- 0.95 m + 0.05 batch, batches of 16 (TFMQ-DM's code)."""
        return _moving(self.lows, torch.amin), _moving(self.highs, torch.amax)

    def qparams(self, bits: int, search: str, per_row: bool) -> QParams:
        """Scale and zero point: of shape (R,) when ``per_row``, else ().

        Args:
            search: a name of :data:`ACTIVATION_RANGES`, such as "minmax", "percentile" (99.9) or "mse" (p = 2.4, 80
                candidates); "ema" sees moving averages of the extremes, all others the values that were drawn.
        """
        if search == "ema":
            rows = list(torch.stack(self.moving_extremes(), 1))
        else:
            extremes = zip(*self.extremes(), strict=True)
            rows = [torch.cat([*v, a[None], b[None]]) for v, (a, b) in zip(self.values, extremes, strict=True)]
        table = _rectangle(rows) if per_row else torch.cat(rows)[None]
        low, high = ACTIVATION_RANGES[search](table, bits, False)
        if not per_row:
            low, high = low[0], high[0]
        if self.always_zero:
            low = torch.zeros_like(low)
        return affine_qparams(low, high, bits)


def _rectangle(rows: list[Tensor]) -> Tensor:
    """Rows of different lengths as one (R, K) tensor; a short row repeats its last value."""
    longest = max(row.numel() for row in rows)
    return torch.stack([torch.cat([row, row[-1:].expand(longest - row.numel())]) for row in rows])


def _moving(parts: list[list[Tensor]], extreme) -> Tensor:
    averages = []
    for row in parts:
        batches = torch.cat(row).split(EMA_BATCH)
        average = extreme(batches[0])
        for batch in batches[1:]:
            average = EMA_MOMENTUM * average + (1 - EMA_MOMENTUM) * extreme(batch)
        averages.append(average)
    return torch.stack(averages)
