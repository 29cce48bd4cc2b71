"""The temporal information block as a program: what happens between the layers that never see the sample.

One forward is taped: every torch function that takes a value derived from such a layer's output is noted. The slice of
the tape that leads back from those layers' inputs needs no image, so it can be replayed for all time steps at once.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from tempoquant.errors import TempoquantError
from tempoquant.graph.observe import evaluating
from tempoquant.graph.types import Category, DenoiserGraph, Probe

TEMPORAL = (Category.TEMPORAL, Category.TEMPORAL_CONDITION)


@dataclass(frozen=True)
class Ref:
    """A value of the tape, by number."""

    number: int


@dataclass
class Op:
    """One noted call: ``func(*args, **kwargs)``, tensors as :class:`Ref`; a layer's call has its name instead."""

    args: Any
    kwargs: Any
    func: Callable | None = None
    layer: str = ""
    outputs: list[int] = field(default_factory=list)


class _Tape(TorchFunctionMode):
    def __init__(self, layers: Mapping[str, nn.Module]):
        super().__init__()
        self.layers = layers
        self.ops: list[Op] = []
        self.numbers: dict[int, int] = {}
        self.values: list[Tensor] = []
        self.tracked: set[int] = set()
        self.inside = 0

    def number(self, tensor: Tensor) -> int:
        if id(tensor) not in self.numbers:
            self.numbers[id(tensor)] = len(self.values)
            self.values.append(tensor)
        return self.numbers[id(tensor)]

    def __torch_function__(self, func: Callable, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        out = func(*args, **(kwargs or {}))
        if self.inside or not any(self.numbers.get(id(t)) in self.tracked for t in tensors_in((args, kwargs))):
            return out
        produced = list(tensors_in(out))
        if produced:
            op = Op(self.refer(args), self.refer(kwargs or {}), func)
            op.outputs = [self.mark(t) for t in produced]
            self.ops.append(op)
        return out

    def refer(self, value: Any) -> Any:
        return map_tensors(value, lambda t: Ref(self.number(t)))

    def mark(self, tensor: Tensor) -> int:
        number = self.number(tensor)
        self.tracked.add(number)
        return number

    def enter(self, name: str) -> Callable:
        def hook(module: nn.Module, args: tuple) -> None:
            self.ops.append(Op((Ref(self.number(args[0])),), {}, layer=name))
            self.inside += 1

        return hook

    def leave(self, name: str) -> Callable:
        def hook(module: nn.Module, args: tuple, output: Tensor) -> None:
            self.inside -= 1
            next(op for op in reversed(self.ops) if op.layer == name).outputs = [self.mark(output)]

        return hook


def tape(probe: Probe, layers: Mapping[str, nn.Module], timestep: float, conditioning: dict[str, Any]) -> _Tape:
    """Tape one forward at batch 1."""
    recorder = _Tape(layers)
    handles = []
    for name, layer in layers.items():
        handles.append(layer.register_forward_pre_hook(recorder.enter(name)))
        handles.append(layer.register_forward_hook(recorder.leave(name)))
    sample = torch.randn((1, *probe.sample_shape), generator=torch.Generator().manual_seed(0))
    try:
        with evaluating(probe.module), recorder:
            probe.run(sample, torch.as_tensor(timestep).reshape(1), **conditioning)
    finally:
        for handle in handles:
            handle.remove()
    return recorder


class TemporalProgram:
    """The layers that see the time step but not the sample, and the functions between them, batched over rows.

    Attributes:
        layers: in execution order. shared, projections: those that feed another one (h), and those that do not (g_i).
        externals: keys of what comes from outside: embedded time steps, class embeddings.
    """

    def __init__(self, probe: Probe, graph: DenoiserGraph):
        self.probe = probe
        self.layers = tuple(layer.name for layer in graph.layers if layer.category in TEMPORAL)
        self.modules = {name: probe.module.get_submodule(name) for name in self.layers}
        recorder = tape(probe, self.modules, probe.timesteps[0], probe.conditioning(1, 0))
        self.ops = _slice(recorder.ops)
        made = {number for op in self.ops for number in op.outputs}
        used = list(dict.fromkeys(r.number for op in self.ops for r in refs_in((op.args, op.kwargs))))
        self.numbers = [number for number in used if number not in made]
        self.externals = tuple(f"external{i}" for i in range(len(self.numbers)))
        self.shared, self.projections = graph.shared, graph.projections
        self._verify()

    def collect(self, timesteps: Sequence[float], conditioning: Sequence[dict] | None = None) -> dict[str, Tensor]:
        """The externals at each time step, stacked to (R, ...); the denoiser runs once a row, at batch 1."""
        rows = []
        for row, timestep in enumerate(timesteps):
            given = self.probe.conditioning(1, 0) if conditioning is None else conditioning[row]
            recorder = tape(self.probe, self.modules, timestep, given)
            rows.append([recorder.values[number].detach().clone() for number in self.numbers])
        return {key: torch.cat([row[i] for row in rows]) for i, key in enumerate(self.externals)}

    def run(self, externals: Mapping[str, Tensor], apply: Callable[[str, Tensor], Tensor]) -> dict[str, Tensor]:
        """Every layer's output (R, d_out); ``apply(name, x)`` computes a layer from its input (R, d_in)."""
        values = {number: externals[key] for number, key in zip(self.numbers, self.externals, strict=True)}
        outputs = {}
        for op in self.ops:
            args, kwargs = (map_refs(part, lambda r: values[r.number]) for part in (op.args, op.kwargs))
            if op.func is None:
                result = outputs[op.layer] = apply(op.layer, args[0])
            else:
                result = op.func(*args, **kwargs)
            values.update(zip(op.outputs, tensors_in(result), strict=True))
        return outputs

    def _verify(self) -> None:
        """Replaying several time steps at once must give what the denoiser itself computes for each."""
        steps = self.probe.timesteps[:3]
        try:
            with torch.no_grad():
                together = self.run(self.collect(steps), lambda name, x: self.modules[name](x))
        except RuntimeError as error:
            reason = str(error).splitlines()[0]
            raise TempoquantError(
                f"the temporal layers cannot be run for several time steps at once: {reason}"
            ) from None
        for row, step in enumerate(steps):
            recorder = tape(self.probe, self.modules, step, self.probe.conditioning(1, 0))
            for op in recorder.ops:
                if op.layer and not torch.allclose(
                    together[op.layer][row], recorder.values[op.outputs[0]][0], rtol=1e-4, atol=1e-5
                ):
                    raise TempoquantError(f"the temporal layer {op.layer!r} depends on more than its time step")


def _slice(ops: list[Op]) -> list[Op]:
    """The layer calls and whatever their inputs need, in order; a layer's later calls repeat its first."""
    needed: set[int] = set()
    kept = []
    for op in reversed(ops):
        if op.layer or needed & set(op.outputs):
            kept.append(op)
            needed |= {r.number for r in refs_in((op.args, op.kwargs))}
    return kept[::-1]


def split_block(
    ops: Sequence[Op], layers: Sequence[str] | Mapping[str, Any]
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Layers whose output reaches another layer's input (h), and those whose output does not (every g_i)."""
    sources: dict[int, set[str]] = {}
    feeding: set[str] = set()
    for op in ops:
        seen = set().union(*(sources.get(r.number, set()) for r in refs_in((op.args, op.kwargs))))
        if op.layer:
            feeding |= seen
        for number in op.outputs:
            sources[number] = {op.layer} if op.layer else seen
    return tuple(n for n in layers if n in feeding), tuple(n for n in layers if n not in feeding)


def tensors_in(value: Any) -> list[Tensor]:
    """All tensors inside nested tuples, lists and dictionaries."""
    found: list[Tensor] = []
    map_tensors(value, found.append)
    return found


def refs_in(value: Any) -> list[Ref]:
    """All references inside nested tuples, lists and dictionaries."""
    found: list[Ref] = []
    map_refs(value, found.append)
    return found


def map_tensors(value: Any, f: Callable[[Tensor], Any]) -> Any:
    """``value`` with ``f`` applied to every tensor inside."""
    return _map(value, Tensor, f)


def map_refs(value: Any, f: Callable[[Ref], Any]) -> Any:
    """``value`` with ``f`` applied to every reference inside."""
    return _map(value, Ref, f)


def _map(value: Any, kind: type, f: Callable) -> Any:
    if isinstance(value, kind):
        return f(value)
    if isinstance(value, tuple | list):
        return [_map(v, kind, f) for v in value] if isinstance(value, list) else tuple(_map(v, kind, f) for v in value)
    if isinstance(value, dict):
        return {k: _map(v, kind, f) for k, v in value.items()}
    return value


def temporal_program(probe: Probe, graph: DenoiserGraph) -> TemporalProgram:
    """The temporal information block of ``probe``'s denoiser as a function of its time steps."""
    return TemporalProgram(probe, graph)
