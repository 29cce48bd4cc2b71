"""A trace of one forward: every torch function that takes a value derived from a temporal layer's output."""

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils.weak import WeakIdKeyDictionary

from tempoquant.graph.nested import first_argument, map_kind, tensors_in
from tempoquant.graph.probing import removing, run_example
from tempoquant.graph.types import Probe

Change = Callable[[str, Tensor], Tensor]

SHAPED_AS = (
    torch.Tensor.type_as,
    torch.Tensor.expand_as,
    torch.Tensor.view_as,
    torch.Tensor.reshape_as,
    torch.Tensor.to,
)
"""Functions that take only shape, type or device from the tensors after their first."""

CREATING = (
    *(torch.zeros_like, torch.ones_like, torch.empty_like, torch.full_like, torch.rand_like, torch.randn_like),
    *(torch.Tensor.new_zeros, torch.Tensor.new_ones, torch.Tensor.new_empty, torch.Tensor.new_full),
)
"""Functions that take only shape, type or device from a tensor."""


@dataclass(frozen=True)
class Ref:
    """A value of the trace, by number; numbers are unique, so a value changed in place gets a new one."""

    number: int


@dataclass
class Op:
    """One traced call.

    Attributes:
        args: of the call, tensors as :class:`Ref`.
        kwargs: likewise.
        func: None for a layer, which has a name instead.
        outputs: numbers of the tensors it returned, then of those it changed.
        changed: their numbers before.
    """

    args: Any
    kwargs: Any
    func: Callable | None = None
    layer: str = ""
    outputs: tuple[int, ...] = ()
    changed: tuple[int, ...] = ()

    @property
    def label(self) -> str:
        """The call's name in messages."""
        return self.layer or str(getattr(self.func, "__qualname__", None) or getattr(self.func, "__name__", self.func))


class FunctionTrace(TorchFunctionMode):
    """Records torch functions while it is active, until a value meets the sample: the rest is the image path.

    Tensors are held weakly, so a large denoiser's activations are freed as usual.

    Attributes:
        ops: in order.
        outputs: (layer, its output) in order of call.
        shapes: of every value that no traced call returned.
        kept: those values among them whose numbers are in ``keep``.
    """

    def __init__(self, keep: Collection[int] = (), change: Change | None = None):
        super().__init__()
        self.keep, self.change = keep, change
        self.ops: list[Op] = []
        self.outputs: list[tuple[str, Tensor]] = []
        self.shapes: dict[int, tuple[int, ...]] = {}
        self.kept: dict[int, Tensor] = {}
        self.numbers: WeakIdKeyDictionary = WeakIdKeyDictionary()
        self.tracked: set[int] = set()
        self.image: WeakIdKeyDictionary = WeakIdKeyDictionary()
        self.count = 0
        self.open: list[Op] = []

    def __torch_function__(self, func: Callable, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        kwargs = kwargs or {}
        inputs = tensors_in((args, kwargs))
        if any(t in self.image for t in (inputs[:1] if func in SHAPED_AS else inputs)) and func not in CREATING:
            return self._follow_image(func, args, kwargs, inputs)
        if self.open or not any(self.numbers.get(t) in self.tracked for t in inputs):
            return func(*args, **kwargs)
        op = Op(self._refer(args), self._refer(kwargs), func)
        before = [(t, _version(t), self.numbers[t]) for t in inputs]
        out = func(*args, **kwargs)
        changed = [(t, number) for t, version, number in before if _version(t) != version]
        produced = tensors_in(out)
        if produced or changed:
            op.changed = tuple(number for _, number in changed)
            op.outputs = tuple(self._mark(t) for t in (*produced, *(t for t, _ in changed)))
            self.ops.append(op)
        return out

    def _follow_image(self, func: Callable, args: tuple, kwargs: dict, inputs: list[Tensor]) -> Any:
        versions = [_version(t) for t in inputs]
        out = func(*args, **kwargs)
        changed = (t for t, version in zip(inputs, versions, strict=True) if _version(t) != version)
        for tensor in (*tensors_in(out), *changed):
            self.image[tensor] = True
        return out

    def _next(self, tensor: Tensor) -> int:
        self.numbers[tensor] = self.count
        self.count += 1
        return self.count - 1

    def _mark(self, tensor: Tensor) -> int:
        number = self._next(tensor)
        self.tracked.add(number)
        return number

    def _refer(self, value: Any) -> Any:
        return map_kind(value, Tensor, lambda t: Ref(self._number(t)))

    def _number(self, tensor: Tensor) -> int:
        number = self.numbers.get(tensor)
        if number is not None:
            return number
        number = self._next(tensor)
        self.shapes[number] = tuple(tensor.shape)
        if number in self.keep:
            # Cloned before use: it may be changed in place later. Of the image, only shape and type can matter here.
            self.kept[number] = torch.zeros_like(tensor) if tensor in self.image else tensor.detach().clone()
        return number

    def enter(self, name: str) -> Callable:
        """A pre-hook for the layer ``name``; torch functions inside layers are not traced."""

        def hook(module: nn.Module, args: tuple, kwargs: dict) -> None:
            self.open.append(Op((Ref(self._number(first_argument(args, kwargs))),), {}, layer=name))

        return hook

    def leave(self, module: nn.Module, args: tuple, output: Tensor) -> Tensor | None:
        """A hook for every layer, which may replace its output."""
        op = self.open.pop()
        result = output if self.change is None else self.change(op.layer, output)
        # Cloned before it is marked, so that the clone itself is not traced.
        self.outputs.append((op.layer, result.detach().clone()))
        op.outputs = (self._mark(result),)
        self.ops.append(op)
        return None if result is output else result


def _version(tensor: Tensor) -> int:
    """How often a tensor was changed in place; an inference tensor is never changed outside of inference mode."""
    return 0 if tensor.is_inference() else tensor._version


def trace_forward(
    probe: Probe,
    layers: Mapping[str, nn.Module],
    timestep: float,
    *,
    batch: int = 1,
    condition: int = 0,
    conditioning: dict[str, Any] | None = None,
    keep: Collection[int] = (),
    change: Change | None = None,
) -> FunctionTrace:
    """Trace the torch functions of one forward that derive from the temporal layers' outputs.

    Args:
        probe: how the denoiser runs.
        layers: the temporal layers by name.
        timestep: of all items.
        batch: number of items.
        condition: variant of the probe's conditioning, unless ``conditioning`` is passed.
        conditioning: keyword arguments of the call.
        keep: numbers of outside values to keep.
        change: ``change(name, output)`` replaces a layer's output.
    """
    trace = FunctionTrace(keep, change)
    handles = []
    for name, layer in layers.items():
        handles.append(layer.register_forward_pre_hook(trace.enter(name), with_kwargs=True))
        handles.append(layer.register_forward_hook(trace.leave))

    def run(sample: Tensor, *rest: Any, **keywords: Any) -> Tensor:
        trace.image[sample] = True
        return probe.run(sample, *rest, **keywords)

    with removing(handles), trace:
        run_example(replace(probe, run=run), timestep, batch=batch, condition=condition, conditioning=conditioning)
    return trace
