"""Calls of a denoiser played back from a graph: the same operators in the same order, without Python between them."""

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
from tempoquant.kernels import DeferringForward, give_back
from tempoquant.layers import AttentionProducts, WatchedForward
from tempoquant.sharing import SharedBlock, SurroundedForward, surround
from tempoquant.temporal import begin_again

MOST_GRAPHS = 16
"""Tapes that are kept at a time, of the shapes that were called last."""
OF_PACKAGE = DeferringForward | WatchedForward | SurroundedForward
"""What this package puts in the place of a part's ``forward``: all that a graph may look into."""


class State(enum.Enum):
    """What the next call of a shape does: it is recorded, compared with the graph, played, or computed as ever."""

    NEW, RECORDED, TRUSTED, PLAIN = range(4)


@dataclass
class Shape:
    """Calls that share a graph."""

    state: State = State.NEW
    graph: CapturedGraph | None = None


@dataclass
class Call:
    """One call of the denoiser.

    Attributes:
        plain: computes it as ever. args, kwargs: its arguments, a time step that is a number as the clock's tensor.
        numbered: whether it is one. inputs: all tensors that change from call to call. key: of its shape.
    """

    plain: Callable[[], Any]
    args: tuple
    kwargs: dict[str, Any]
    numbered: bool
    inputs: list[Tensor]
    key: Hashable


class Replay(SharedBlock):
    """Within its ``with`` block a denoiser's calls of one shape are recorded once and played back.

    The first call of a shape is recorded, the second is computed both ways and compared bit for bit, and from the third
    on the graph is played; a call that cannot be recorded, fails while it is, or is not the same bits, stays as it was.
    Time steps, conditions and samples are the graph's inputs. Tapes are those of the last :data:`MOST_GRAPHS` shapes.
    Weights, adapters and hooks must not change within the block. It is for drawing: no gradients pass. Threads may
    share a block, or have one each: all that overlap are one.

    Args:
        module: the denoiser. clock: its clock.

    Attributes:
        played: how many calls came off a graph.

    Raises:
        InputError: a part of the denoiser has hooks, which a graph would leave out; on entering.
    """

    def __init__(self, module: nn.Module, clock: Clock):
        super().__init__(module)
        self.clock = clock
        self.shapes: OrderedDict[Hashable, Shape] = OrderedDict()
        self.played = 0
        self._changing = threading.Lock()
        self._undo: Callable[[], None] = lambda: None

    def __enter__(self) -> Self:
        if has_hooks(self.module):
            raise InputError("a part of the denoiser has hooks, which a played back call would leave out: remove them")
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
        follows = torch.is_grad_enabled() or torch.jit.is_tracing() or self.module.training
        call = None if follows else self._read(forward, args, kwargs)
        if call is None:
            return forward(*args, **kwargs)
        shape, state = self._take(call.key)
        if state is State.PLAIN:
            return call.plain()
        with contextlib.suppress(Exception):
            if state is State.NEW:
                return self._record(shape, call, forward)
            if state is State.RECORDED:
                return self._compare(shape, call)
            return shape.graph(call.inputs)  # type: ignore[misc]
        # Whatever failed: if it was the denoiser itself, it does so again.
        shape.state = State.PLAIN
        begin_again()
        return call.plain()

    def _read(self, forward: Callable[..., Any], args: tuple, kwargs: dict[str, Any]) -> Call | None:
        """A call by its arguments; None if these cannot be told apart."""
        plain = functools.partial(forward, *args, **kwargs)
        numbered, args, kwargs = self._with_tensor_for_time(args, kwargs)
        leaves, spec = tree_flatten((args, kwargs))
        # What the clock read off the call are inputs too.
        clock, conditions = self.clock, self.clock.conditions
        moments = (clock.timestep, clock.row, None if conditions is None else conditions.index)
        inputs = [x for x in (*leaves, *moments) if isinstance(x, Tensor)]
        rest = tuple(leaf for leaf in leaves if not isinstance(leaf, Tensor))
        if not all(isinstance(value, Hashable) for value in rest):
            return None
        key = (repr(spec), numbered, rest, *(_kind(x, inputs) for x in inputs))
        return Call(plain, args, kwargs, numbered, inputs, key)

    def _with_tensor_for_time(self, args: tuple, kwargs: dict[str, Any]) -> tuple[bool, tuple, dict[str, Any]]:
        """Whether the time step is a number, each of which would have a graph; and arguments with a tensor for it."""
        name, place = self.clock.name, self.clock.position
        if isinstance(kwargs.get(name), int | float):
            return True, args, {**kwargs, name: self.clock.timestep}
        if place is not None and place < len(args) and isinstance(args[place], int | float):
            return True, (*args[:place], self.clock.timestep, *args[place + 1 :]), kwargs
        return False, args, kwargs

    def _take(self, key: Hashable) -> tuple[Shape, State]:
        """The shape of a call and what the call is to do; while it records or compares, others' calls are plain."""
        with self._changing:
            shape = self.shapes.setdefault(key, Shape())
            self.shapes.move_to_end(key)
            if len(self.shapes) > MOST_GRAPHS:
                self.shapes.popitem(last=False)
                # Calls of many sizes leave holes, which the system would not get back otherwise.
                give_back()
            state = shape.state
            if state is State.TRUSTED:
                self.played += 1
            else:
                shape.state = State.PLAIN
        return shape, state

    def _record(self, shape: Shape, call: Call, forward: Callable[..., Any]) -> Any:
        if _has_forwards_of_others(self.module):
            return call.plain()
        capture = GraphCapture(call.inputs)
        with capture:
            made = forward(*call.args, **call.kwargs)
        graph = capture.graph(made)
        if capture.why is None:
            shape.graph, shape.state = graph, State.RECORDED
        if call.numbered:
            begin_again()
            return call.plain()
        return made

    def _compare(self, shape: Shape, call: Call) -> Any:
        assert shape.graph is not None
        made = call.plain()
        begin_again()
        with contextlib.suppress(Exception):
            if equal(made, shape.graph(call.inputs)):
                shape.state = State.TRUSTED
        return made


def _has_forwards_of_others(module: nn.Module) -> bool:
    """Whether anybody else replaced a part's ``forward``, to move its weights say: a captured graph would freeze it."""
    parts = (part for part in module.modules() if part is not module and "forward" in vars(part))
    return not all(isinstance(part.forward, OF_PACKAGE) for part in parts)


def _kind(x: Tensor, inputs: list[Tensor]) -> tuple:
    """What a graph depends on of an input: all but its values; and whether it was given before."""
    return x.shape, x.stride(), x.dtype, x.device, next(i for i, other in enumerate(inputs) if other is x)


def has_hooks(module: nn.Module) -> bool:
    """Whether a part of ``module`` has hooks, but for those that count for the watch of attention products."""
    parts = (part for part in module.modules() if part is not module)
    hooks = (hook for part in parts for hook in (*part._forward_hooks.values(), *part._forward_pre_hooks.values()))
    return not all(isinstance(getattr(hook, "__self__", None), AttentionProducts) for hook in hooks)
