"""Seeing what parts of a denoiser put out and take in while it runs."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from tempoquant.graph import find_kind

LEVELS = (0.0, 0.01, 0.25, 0.5, 0.75, 0.99, 1.0)
"""Quantiles that stand for the distribution of an activation."""
MOST_VALUES = 8192


@contextmanager
def outputs_of(module: nn.Module, names: Sequence[str]) -> Iterator[dict[str, Tensor]]:
    """Within the block, the first tensor of these submodules' latest outputs, by name."""
    caught: dict[str, Tensor] = {}

    def hook(name: str) -> Any:
        def catch(_: nn.Module, args: tuple, output: Any) -> None:
            found = find_kind(getattr(output, "sample", output), Tensor)
            if found:
                caught[name] = found[0]

        return catch

    handles = [module.get_submodule(name).register_forward_hook(hook(name)) for name in names]
    try:
        yield caught
    finally:
        for handle in handles:
            handle.remove()


class Distributions:
    """Quantiles of every layer's input at every step; memory does not grow with what is seen.

    Least and greatest value are exact; the others are of a regular sample of each batch's values.

    Args:
        names: the layers. steps: K. batches: how many each step has, which share the sampled values.
    """

    def __init__(self, names: Sequence[str], steps: int, batches: int):
        self.row = {name: i for i, name in enumerate(names)}
        self.quantiles = torch.full((len(names), steps, len(LEVELS)), torch.nan)
        self.values = max(1, MOST_VALUES // batches)
        self._sampled: dict[str, list[Tensor]] = {name: [] for name in names}
        self._extremes: dict[str, list[float]] = {name: [] for name in names}

    def see(self, name: str, x: Tensor) -> None:
        """A layer's input at the current step."""
        if name in self.row:
            values = x.detach().float().flatten()
            # An odd stride, lest every value be of the same few columns.
            self._sampled[name].append(values[:: (len(values) // self.values) | 1].cpu())
            self._extremes[name] += [float(values.min()), float(values.max())]

    def end_step(self, step: int) -> None:
        """Reduce what was seen to the quantiles of ``step``."""
        levels = torch.tensor(LEVELS)
        for name, sampled in self._sampled.items():
            if sampled:
                found = torch.quantile(torch.cat(sampled), levels)
                found[0], found[-1] = min(self._extremes[name]), max(self._extremes[name])
                self.quantiles[self.row[name], step] = found
            self._sampled[name], self._extremes[name] = [], []


class SampledDistributions(Distributions):
    """Distributions that keep the sampled values too.

    Attributes:
        kept: by layer, the values of every step that ended, (M,) each.
    """

    def __init__(self, names: Sequence[str], steps: int, batches: int):
        super().__init__(names, steps, batches)
        self.kept: dict[str, list[Tensor]] = {name: [] for name in names}

    def end_step(self, step: int) -> None:
        """See the base class."""
        for name, sampled in self._sampled.items():
            self.kept[name].append(torch.cat(sampled))
        super().end_step(step)
