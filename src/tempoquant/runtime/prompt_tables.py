"""Temporal features of every prompt and step, computed once while weights stay as they are.

Layers that see the time step and a class label or pooled prompt alone put out the same for every batch of the same
prompts. They are run when such a batch first meets a step, and looked up from then on.
"""

import functools
import inspect
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from tempoquant.graph.nested import map_kind, tensors_in
from tempoquant.intervals import named_arguments
from tempoquant.layers import StandIn, parameter_count
from tempoquant.runtime.swapping import swapped


@dataclass(frozen=True)
class Feature:
    """What a layer put out for a batch, every row that is there once: (B, ...)."""

    rows: Tensor
    index: Tensor

    @classmethod
    def of(cls, made: Tensor) -> "Feature":
        """The output as it is, bit for bit."""
        # As bytes: two zeros of unlike sign are not the same.
        data = made.detach().contiguous().view(torch.uint8)
        first: list[int] = []
        index: list[int] = []
        for number, row in enumerate(data):
            same = (i for i, known in enumerate(first) if torch.equal(data[known], row))
            index.append(next(same, len(first)))
            if index[-1] == len(first):
                first.append(number)
        return cls(made.detach()[first], torch.tensor(index, device=made.device))

    def all_rows(self) -> Tensor:
        """A tensor of its own: whoever takes it may change it in place."""
        return self.rows[self.index]

    @property
    def size(self) -> int:
        """Bytes."""
        return self.rows.numel() * self.rows.element_size()


Features = dict[str, Feature]
"""By call of a layer: its name and how often the current call of the denoiser ran it before."""


@dataclass
class Entry:
    """What was computed for a batch of prompts.

    Attributes:
        tensors, rest: the denoiser's arguments beside sample and time step. steps: features by time steps.
    """

    tensors: list[Tensor]
    rest: Any
    steps: dict[tuple, Features] = field(default_factory=dict)

    def is_of(self, tensors: Sequence[Tensor], rest: Any) -> bool:
        """Whether these are the arguments it was made for, bit for bit."""
        return rest == self.rest and all(_same(a, b) for a, b in zip(self.tensors, tensors, strict=True))


class PromptTables:
    """Within its ``with`` block the named layers of a denoiser run once a batch of prompts and time step.

    Everything but the sample is compared bit for bit and at equal batch shape, so results are the same bits as
    without. Nothing is kept beyond the block, in which weights and adapters must not change. What is kept takes no more
    memory than the layers' weights in float32; the oldest prompts go first. It is for drawing: no gradients pass.

    Args:
        module: the denoiser. names: its layers that see nothing of the sample. time: the name of its time step
            argument.
    """

    def __init__(self, module: nn.Module, names: Sequence[str], time: str):
        self.module, self.time = module, time
        found = {name: module.get_submodule(name) for name in names}
        self.layers = {name: layer for name, layer in found.items() if not isinstance(layer, StandIn)}
        self.sample = next(iter(inspect.signature(module.forward).parameters))
        self.entries: list[Entry] = []
        self.limit = 4 * sum(parameter_count(layer) for layer in self.layers.values())
        self.size = 0
        self.features: Features | None = None
        self.calls: dict[str, int] = {}
        self._undo: list[Callable[[], None]] = []

    def __enter__(self) -> "PromptTables":
        hooks = (self.module.register_forward_pre_hook(self._begin, with_kwargs=True),
                 self.module.register_forward_hook(self._end, always_call=True))  # fmt: skip
        self._undo = [hook.remove for hook in hooks]
        for name, layer in self.layers.items():
            self._undo.append(swapped(layer, "forward", self._remembering(name, layer.forward)))
        return self

    def __exit__(self, *_: Any) -> None:
        for undo in self._undo:
            undo()
        self._undo, self.entries, self.features, self.size = [], [], None, 0

    @torch.compiler.disable
    def _begin(self, module: nn.Module, args: tuple, kwargs: dict[str, Any]) -> None:
        named = named_arguments(module, args, kwargs)
        named.pop(self.sample, None)
        t = torch.as_tensor(named.pop(self.time))
        tensors, rest = tensors_in(named), map_kind(named, Tensor, lambda tensor: Tensor)
        entry = next((entry for entry in self.entries if entry.is_of(tensors, rest)), None)
        if entry is None:
            entry = Entry([tensor.clone() for tensor in tensors], rest)
            self.entries.append(entry)
        self.features = entry.steps.setdefault((tuple(t.shape), *t.flatten().tolist()), {})
        self.calls = {}

    def begin_again(self) -> None:
        """The current call of the denoiser is computed once more from its beginning."""
        self.calls = {}

    def _end(self, *_: Any) -> None:
        self.features = None

    def _remembering(self, name: str, forward: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
        @functools.wraps(forward)
        @torch.compiler.disable
        def remembering(input: Tensor) -> Tensor:
            if self.features is None:
                return forward(input)
            call = self.calls[name] = self.calls.get(name, 0) + 1
            key = f"{name}#{call}"
            if key not in self.features:
                made = forward(input)
                self._keep(key, made)
                return made
            return self.features[key].all_rows()

        return remembering

    def _keep(self, key: str, made: Tensor) -> None:
        feature = Feature.of(made)
        while self.size + feature.size > self.limit and len(self.entries) > 1:
            oldest = self.entries.pop(0)
            self.size -= sum(part.size for features in oldest.steps.values() for part in features.values())
        if self.features is not None and self.size + feature.size <= self.limit:
            self.features[key] = feature
            self.size += feature.size


def _same(a: Tensor, b: Tensor) -> bool:
    return (a.dtype, a.device, a.shape) == (b.dtype, b.device, b.shape) and torch.equal(a, b)
