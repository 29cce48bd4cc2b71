"""Outputs of a denoiser's modules, and quantiles of its layers' inputs, collected while it runs."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from tempoquant.graph import find_kind

LEVELS = (0.0, 0.01, 0.25, 0.5, 0.75, 0.99, 1.0)
"""Quantiles that summarize the distribution of an activation."""
MOST_VALUES = 8192
"""Values of an activation that are sampled a step, all batches together."""


@contextmanager
def outputs_of(module: nn.Module, names: Sequence[str]) -> Iterator[dict[str, Tensor]]:
    """Collect module outputs by forward hooks in a ``with`` block: by name, the first tensor of the latest output.

    Args:
        module: the network.
        names: of its submodules.
    """
    outputs: dict[str, Tensor] = {}

    def hook(name: str) -> Any:
        def store_output(_: nn.Module, args: tuple, output: Any) -> None:
            tensors = find_kind(getattr(output, "sample", output), Tensor)
            if tensors:
                outputs[name] = tensors[0]

        return store_output

    handles = [module.get_submodule(name).register_forward_hook(hook(name)) for name in names]
    try:
        yield outputs
    finally:
        for handle in handles:
            handle.remove()


class ActivationQuantiles:
    """Quantiles of every layer's input at every step, in memory that does not grow with the number of batches.

    Least and greatest value are exact; the others are those of a regular sample of each batch's values.

    Args:
        names: of L layers.
        steps: K.
        batches: of each step; they share ``MOST_VALUES``.

    Attributes:
        row: index of each layer in ``quantiles``, by name.
        quantiles: (L, K, 7) float32 at ``LEVELS``; NaN where nothing was observed.
    """

    def __init__(self, names: Sequence[str], steps: int, batches: int):
        self.row = {name: i for i, name in enumerate(names)}
        self.quantiles = torch.full((len(names), steps, len(LEVELS)), torch.nan)
        self.values = max(1, MOST_VALUES // batches)
        self._sampled: dict[str, list[Tensor]] = {name: [] for name in names}
        self._extremes: dict[str, list[float]] = {name: [] for name in names}

    def observe(self, name: str, x: Tensor) -> None:
        """Add a layer's input at the current step.

        Args:
            name: of the layer; inputs of others than ``names`` are ignored.
            x: the input, of any shape and float dtype.
        """
        if name in self.row:
            values = x.detach().float().flatten()
            # An odd stride, lest every value be of the same few columns.
            self._sampled[name].append(values[:: (len(values) // self.values) | 1].cpu())
            self._extremes[name] += [float(values.min()), float(values.max())]

    def end_step(self, step: int) -> None:
        """Compute the quantiles of step index ``step`` from the inputs observed since the last call."""
        levels = torch.tensor(LEVELS)
        for name, sampled in self._sampled.items():
            if sampled:
                quantiles = torch.quantile(torch.cat(sampled), levels)
                quantiles[0], quantiles[-1] = min(self._extremes[name]), max(self._extremes[name])
                self.quantiles[self.row[name], step] = quantiles
            self._sampled[name], self._extremes[name] = [], []


class ActivationSamples(ActivationQuantiles):
    """Quantiles that keep the sampled values too.

    Attributes:
        samples: by layer, the sampled values of every step that ended, (M,) float32 each.
    """

    def __init__(self, names: Sequence[str], steps: int, batches: int):
        super().__init__(names, steps, batches)
        self.samples: dict[str, list[Tensor]] = {name: [] for name in names}

    def end_step(self, step: int) -> None:
        """See the base class."""
        for name, sampled in self._sampled.items():
            self.samples[name].append(torch.cat(sampled))
        super().end_step(step)
