"""Temporal features of every prompt and step, computed once while weights stay as they are.

Layers that see the time step and a class label or pooled prompt alone put out the same for every batch of the same
prompts. They run when such a batch first has a step, and later calls take what they put out then.
"""

import functools
import inspect
import threading
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from tempoquant.arguments import equal, named_arguments
from tempoquant.graph import map_kind, tensors_in
from tempoquant.patching import GraphRole, Undo, in_graph, surround
from tempoquant.sharing import PerThread, SharedBlock
from tempoquant.temporal.replacements import Replacement, parameter_count


@dataclass(frozen=True)
class Feature:
    """What a layer put out for a batch, (B, ...), equal rows once.

    Attributes:
        rows: the distinct rows, (U, ...).
        index: (B,) which of them each item has.
    """

    rows: Tensor
    index: Tensor

    @classmethod
    def of(cls, output: Tensor) -> "Feature":
        """An output (B, ...) as it is, bit for bit."""
        # As bytes: two zeros of unlike sign are not the same.
        data = output.detach().contiguous().view(torch.uint8)
        first: list[int] = []
        index: list[int] = []
        for number, row in enumerate(data):
            same = (i for i, earlier in enumerate(first) if torch.equal(data[earlier], row))
            index.append(next(same, len(first)))
            if index[-1] == len(first):
                first.append(number)
        return cls(output.detach()[first], torch.tensor(index, device=output.device))

    def all_rows(self) -> Tensor:
        """The output (B, ...), a new tensor: its reader may change it in place."""
        return self.rows[self.index]

    @property
    def size(self) -> int:
        """Bytes."""
        return self.rows.numel() * self.rows.element_size()


Features = dict[str, Feature]
"""By call of a layer: its name and how often the current call of the denoiser ran it before."""


@dataclass(eq=False)
class Entry:
    """What was computed for a batch of prompts.

    Attributes:
        tensors: among the denoiser's arguments beside sample and time step.
        rest: these arguments with a mark for each tensor.
        steps: features by time steps.
    """

    tensors: list[Tensor]
    rest: Any
    steps: dict[tuple, Features] = field(default_factory=dict)

    def is_of(self, tensors: Sequence[Tensor], rest: Any) -> bool:
        """Whether these arguments are the entry's, bit for bit."""
        return rest == self.rest and equal(self.tensors, list(tensors))


@dataclass
class Current:
    """A call of a denoiser that is under way.

    Attributes:
        tables: of its denoiser.
        entry: of its prompts.
        features: of its prompts and time step.
        counts: calls of each layer so far.
    """

    tables: "PromptTables"
    entry: Entry
    features: Features
    counts: Counter[str] = field(default_factory=Counter)


class _Call(PerThread):
    """The innermost call of a denoiser with tables, in a thread."""

    current: Current | None = None


CALL = _Call()


def restart_call() -> None:
    """The current call of a denoiser is computed once more from its beginning."""
    if CALL.current is not None:
        CALL.current.counts.clear()


class PromptTables(SharedBlock):
    """Within its ``with`` block the named layers of a denoiser run once a batch of prompts and time step.

    Everything but the sample is compared bit for bit and at equal batch shape, so results are the same bits as
    without. Nothing is kept beyond the block, in which weights and adapters must not change. What is kept takes no more
    memory than the layers' weights in float32; the oldest prompts go first. It is for drawing: no gradients pass.
    Threads may share a block, or have one each: all that overlap are one.

    Args:
        module: the denoiser.
        names: its layers that see nothing of the sample.
        time: the name of its time step argument.
    """

    def __init__(self, module: nn.Module, names: Sequence[str], time: str):
        super().__init__(module)
        self.time = time
        found = {name: module.get_submodule(name) for name in names}
        self.layers = {name: layer for name, layer in found.items() if not isinstance(layer, Replacement)}
        self.sample = next(iter(inspect.signature(module.forward).parameters))
        self.entries: list[Entry] = []
        self.limit = 4 * sum(parameter_count(layer) for layer in self.layers.values())
        self.size = 0
        self._changing = threading.Lock()
        self._undo: list[Undo] = []

    def start(self) -> None:
        """See the base class."""
        self._undo = [surround(self.module, self._call)]
        for name, layer in self.layers.items():
            look_up = in_graph(GraphRole.OPAQUE)(functools.partial(self._look_up, name))
            self._undo.append(surround(layer, look_up))

    def stop(self) -> None:
        """See the base class."""
        for undo in self._undo:
            undo()
        self._undo, self.entries, self.size = [], [], 0

    @torch.compiler.disable
    def _call(self, forward: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        outer, CALL.current = CALL.current, self._begin(named_arguments(self.module.forward, args, kwargs))
        try:
            return forward(*args, **kwargs)
        finally:
            CALL.current = outer

    def _begin(self, named: dict[str, Any]) -> Current:
        named.pop(self.sample, None)
        t = torch.as_tensor(named.pop(self.time))
        tensors, rest = tensors_in(named), map_kind(named, Tensor, lambda tensor: Tensor)
        with self._changing:
            entry = next((entry for entry in self.entries if entry.is_of(tensors, rest)), None)
            if entry is None:
                entry = Entry([tensor.clone() for tensor in tensors], rest)
                self.entries.append(entry)
            return Current(self, entry, entry.steps.setdefault((tuple(t.shape), *t.flatten().tolist()), {}))

    @torch.compiler.disable
    def _look_up(self, name: str, forward: Callable[[Tensor], Tensor], input: Tensor) -> Tensor:
        call = CALL.current
        if call is None or call.tables is not self:
            return forward(input)
        call.counts[name] += 1
        key = f"{name}#{call.counts[name]}"
        if key in call.features:
            return call.features[key].all_rows()
        output = forward(input)
        self._keep(call, key, Feature.of(output))
        return output

    def _keep(self, call: Current, key: str, feature: Feature) -> None:
        with self._changing:
            while self.size + feature.size > self.limit and len(self.entries) > 1:
                oldest = self.entries.pop(0)
                self.size -= sum(part.size for features in oldest.steps.values() for part in features.values())
            # Another thread may have kept the feature, or dropped this entry to make room.
            missing = key not in call.features and call.entry in self.entries
            if missing and self.size + feature.size <= self.limit:
                call.features[key] = feature
                self.size += feature.size
