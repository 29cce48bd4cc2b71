"""Replay of a denoiser's calls from captured graphs: the same ATen operators, in order, without module calls."""

import contextlib
import enum
import functools
import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable
from dataclasses import dataclass
from typing import Any, Self

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_flatten

from tempoquant.arguments import equal
from tempoquant.capture.graph import CapturedGraph, GraphCapture
from tempoquant.errors import InputError
from tempoquant.intervals import Clock
from tempoquant.kernels import release_freed_memory
from tempoquant.patching import Undo, graph_role, own_function, surround
from tempoquant.sharing import SharedBlock
from tempoquant.temporal import restart_call

MOST_GRAPHS = 16
"""Graphs that are kept at a time: those of the input shapes that were called last."""


class State(enum.Enum):
    """How the next call of a shape runs.

    NEW: it is captured. CAPTURED: it is computed both ways and compared. TRUSTED: it is replayed. UNCAPTURED: it runs
    as without this block.
    """

    NEW, CAPTURED, TRUSTED, UNCAPTURED = range(4)


@dataclass
class Shape:
    """Calls whose inputs agree in shape, layout, dtype and device, and which share a graph.

    Attributes:
        state: how the next one runs.
        graph: once it is captured.
    """

    state: State = State.NEW
    graph: CapturedGraph | None = None


@dataclass
class Call:
    """One call of the denoiser.

    Attributes:
        uncaptured: computes it as without this block.
        args: its positional arguments, a time step that is a Python number replaced by the clock's tensor.
        kwargs: its keyword arguments, likewise.
        number_as_time: whether the time step is a Python number.
        inputs: all tensors that change from call to call.
        key: of its :class:`Shape`.
    """

    uncaptured: Callable[[], Any]
    args: tuple
    kwargs: dict[str, Any]
    number_as_time: bool
    inputs: list[Tensor]
    key: Hashable


class Replay(SharedBlock):
    """Within its ``with`` block a denoiser's calls of one shape are captured once and replayed, bit for bit.

    The first call of a shape is captured, the second is computed both ways and compared, and from the third on the
    graph is replayed. A call that cannot be captured, fails while it is, or does not give the same bits, runs as
    without the block, and so do all later ones of its shape. Time steps, conditions and samples are inputs of the
    graph. Graphs of the last :data:`MOST_GRAPHS` shapes are kept. Weights, adapters and hooks must not change within
    the block. For sampling: no gradients pass. Overlapping blocks on one denoiser, of any threads, are one.

    Args:
        module: the denoiser.
        clock: its clock.

    Attributes:
        replays: how many calls were replayed.

    Raises:
        InputError: a part of the denoiser has hooks, which a replay would leave out; on entering.
    """

    def __init__(self, module: nn.Module, clock: Clock):
        super().__init__(module)
        self.clock = clock
        self.shapes: OrderedDict[Hashable, Shape] = OrderedDict()
        self.replays = 0
        self._changing = threading.Lock()
        self._undo: Undo = lambda: None

    def __enter__(self) -> Self:
        if has_hooks(self.module):
            raise InputError("a part of the denoiser has hooks, which a replayed call would leave out: remove them")
        return super().__enter__()

    def start(self) -> None:
        """See the base class."""
        self._undo = surround(self.module, self._call, innermost=True)

    def stop(self) -> None:
        """See the base class."""
        self._undo()
        self.shapes = OrderedDict()

    @torch.compiler.disable
    def _call(self, forward: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        traced = torch.is_grad_enabled() or torch.jit.is_tracing() or self.module.training
        call = None if traced else self._read(forward, args, kwargs)
        if call is None:
            return forward(*args, **kwargs)
        shape, state = self._claim(call.key)
        if state is State.UNCAPTURED:
            return call.uncaptured()
        with contextlib.suppress(Exception):
            if state is State.NEW:
                return self._capture(shape, call, forward)
            if state is State.CAPTURED:
                return self._compare(shape, call)
            return shape.graph(call.inputs)  # type: ignore[misc]
        # Whatever failed: if it was the denoiser itself, it does so again.
        shape.state = State.UNCAPTURED
        restart_call()
        return call.uncaptured()

    def _read(self, forward: Callable[..., Any], args: tuple, kwargs: dict[str, Any]) -> Call | None:
        """A call by its arguments; None if these are not hashable, and so have no key."""
        uncaptured = functools.partial(forward, *args, **kwargs)
        number_as_time, args, kwargs = self._with_tensor_as_time(args, kwargs)
        leaves, spec = tree_flatten((args, kwargs))
        # What the clock read off the call are inputs too.
        clock, conditions = self.clock, self.clock.conditions
        current = (clock.timestep, clock.row, None if conditions is None else conditions.index)
        inputs = [x for x in (*leaves, *current) if isinstance(x, Tensor)]
        rest = tuple(leaf for leaf in leaves if not isinstance(leaf, Tensor))
        if not all(isinstance(value, Hashable) for value in rest):
            return None
        key = (repr(spec), number_as_time, rest, *(_kind(x, inputs) for x in inputs))
        return Call(uncaptured, args, kwargs, number_as_time, inputs, key)

    def _with_tensor_as_time(self, args: tuple, kwargs: dict[str, Any]) -> tuple[bool, tuple, dict[str, Any]]:
        """Whether the time step is a number, each of which would have a graph; and arguments with a tensor for it."""
        name, place = self.clock.name, self.clock.position
        if isinstance(kwargs.get(name), int | float):
            return True, args, {**kwargs, name: self.clock.timestep}
        if place is not None and place < len(args) and isinstance(args[place], int | float):
            return True, (*args[:place], self.clock.timestep, *args[place + 1 :]), kwargs
        return False, args, kwargs

    def _claim(self, key: Hashable) -> tuple[Shape, State]:
        """The shape of a call and how the call runs; while one captures or compares, others run uncaptured."""
        with self._changing:
            shape = self.shapes.setdefault(key, Shape())
            self.shapes.move_to_end(key)
            if len(self.shapes) > MOST_GRAPHS:
                self.shapes.popitem(last=False)
                # Calls of many sizes leave holes, which the system would not get back otherwise.
                release_freed_memory()
            state = shape.state
            if state is State.TRUSTED:
                self.replays += 1
            else:
                shape.state = State.UNCAPTURED
        return shape, state

    def _capture(self, shape: Shape, call: Call, forward: Callable[..., Any]) -> Any:
        if _has_undeclared_forwards(self.module):
            return call.uncaptured()
        capture = GraphCapture(call.inputs)
        with capture:
            result = forward(*call.args, **call.kwargs)
        graph = capture.graph(result)
        if capture.not_capturable is None:
            shape.graph, shape.state = graph, State.CAPTURED
        if call.number_as_time:
            restart_call()
            return call.uncaptured()
        return result

    def _compare(self, shape: Shape, call: Call) -> Any:
        assert shape.graph is not None
        result = call.uncaptured()
        restart_call()
        with contextlib.suppress(Exception):
            if equal(result, shape.graph(call.inputs)):
                shape.state = State.TRUSTED
        return result


def has_hooks(module: nn.Module) -> bool:
    """Whether a part of ``module`` has forward hooks that declare no :class:`~tempoquant.patching.GraphRole`."""
    parts = (part for part in module.modules() if part is not module)
    hooks = (hook for part in parts for hook in (*part._forward_hooks.values(), *part._forward_pre_hooks.values()))
    return not all(map(graph_role, hooks))


def _has_undeclared_forwards(module: nn.Module) -> bool:
    """Whether a part has a ``forward`` of its own that declares no role, such as one that moves offloaded weights."""
    forwards = (own_function(part) for part in module.modules() if part is not module)
    return not all(graph_role(forward) for forward in forwards if forward is not None)


def _kind(x: Tensor, inputs: list[Tensor]) -> tuple:
    """What a graph depends on of an input: all but its values; and which of the inputs is the same tensor."""
    return x.shape, x.stride(), x.dtype, x.device, next(i for i, other in enumerate(inputs) if other is x)
