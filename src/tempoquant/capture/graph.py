"""A call of a module as a flat list of operators: all that it computes, without Python's way through its parts."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Self

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import TreeSpec, tree_flatten, tree_unflatten
from torch.utils.weak import WeakIdKeyDictionary

from tempoquant.kernels import DeferredGroupNorm, GroupNorm
from tempoquant.layers import CAPTURE

NUMBERS = (torch.ops.aten._local_scalar_dense.default, torch.ops.aten.is_nonzero.default)
"""Operators that give Python a number, which may then go another way."""
SCALINGS = (torch.ops.aten.div.Tensor, torch.ops.aten.mul.Tensor)


class PendingNorm(NamedTuple):
    """In the place of an argument: what a norm that waits for this operator computes."""

    norm: GroupNorm
    silu: bool


class Slot(NamedTuple):
    """A place of a graph's result."""

    number: int


@dataclass
class Node:
    """One operator of a graph.

    Attributes:
        args: what it is called with; those of ``tensors`` and ``lists`` are filled in, by place: a slot, or a slot (or
            None: as it is) for each entry. makes: the slots of its results, of which there is a ``single`` one or a
            list, with None for what is no tensor. done: slots that nobody reads after it.
    """

    function: Callable[..., Any]
    args: list[Any]
    kwargs: dict[str, Any]
    tensors: list[tuple[int, int]]
    lists: list[tuple[int, list[int | None]]]
    makes: list[int | None]
    single: bool
    done: list[int] = field(default_factory=list)

    def run(self, values: list[Any]) -> None:
        """Compute this operator's slots from the others'."""
        args = self.args.copy()
        for place, slot in self.tensors:
            owed = args[place]
            args[place] = values[slot] if owed is None else DeferredGroupNorm(values[slot], *owed)
        for place, slots in self.lists:
            args[place] = [e if s is None else values[s] for e, s in zip(args[place], slots, strict=True)]
        made = self.function(*args, **self.kwargs)
        if self.single:
            values[self.makes[0]] = made  # type: ignore[index]
        else:
            for target, result in zip(self.makes, made, strict=True):
                if target is not None:
                    values[target] = result
        for slot in self.done:
            values[slot] = None


@dataclass
class CapturedGraph:
    """What :meth:`GraphCapture.graph` makes: call it with tensors like those that were recorded."""

    nodes: list[Node]
    size: int
    result: list[Any]
    spec: TreeSpec

    def __call__(self, inputs: Sequence[Tensor]) -> Any:
        values: list[Any] = [*inputs, *[None] * (self.size - len(inputs))]
        for node in self.nodes:
            node.run(values)
        return tree_unflatten(
            [values[leaf.number] if isinstance(leaf, Slot) else leaf for leaf in self.result], self.spec
        )


class GraphCapture(TorchDispatchMode):
    """Within its ``with`` block every operator is written down.

    Tensors that were there before are constants, but for the ``inputs``.

    Attributes:
        why: why what was recorded cannot be played back, or None.
    """

    def __init__(self, inputs: Sequence[Tensor]):
        super().__init__()
        # By weak reference: what the call has no more use for is freed as ever.
        self.slots = WeakIdKeyDictionary()
        self.size = len(inputs)
        for slot, tensor in enumerate(inputs):
            self.slots.setdefault(tensor, slot)
        self.nodes: list[Node] = []
        self.inside = False
        self.outer: Callable[..., Any] | None = None
        self.why: str | None = None

    def __enter__(self) -> Self:
        self.outer, CAPTURE.as_operator = CAPTURE.as_operator, self.whole
        return super().__enter__()

    def __exit__(self, *error: Any) -> None:
        CAPTURE.as_operator = self.outer
        super().__exit__(*error)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if self.inside:
            return func(*args, **(kwargs or {}))
        if DeferredGroupNorm in types:
            return NotImplemented
        made = func(*args, **(kwargs or {}))
        if _changes_nothing(func, args, made):
            # A constant stays one.
            if self._knows(args[0]):
                self.slots[made] = self.slots[args[0]]
        else:
            self._note(func, args, kwargs or {}, made)
        return made

    def whole(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """``function`` as one operator, called again when the graph is played, whatever it does inside."""

        def one(*args: Any) -> Any:
            if self.inside:
                return function(*args)
            self.inside = True
            try:
                made = function(*args)
            finally:
                self.inside = False
            self._note(function, args, {}, made)
            return made

        return one

    def graph(self, result: Any) -> CapturedGraph:
        """All that was recorded, ending with ``result``."""
        leaves, spec = tree_flatten(result)
        found = [Slot(self.slots[leaf]) if self._knows(leaf) else leaf for leaf in leaves]
        if any(isinstance(leaf, Tensor) for leaf in found):
            self.why = self.why or "its result comes from elsewhere"
        nodes = _needed(self.nodes, {leaf.number for leaf in found if isinstance(leaf, Slot)})
        return CapturedGraph(nodes, self.size, found, spec)

    def _note(self, function: Any, args: Sequence[Any], kwargs: dict[str, Any], made: Any) -> None:
        given: list[Any] = list(args)
        tensors: list[tuple[int, int]] = []
        lists: list[tuple[int, list[int | None]]] = []
        for place, value in enumerate(args):
            if isinstance(value, DeferredGroupNorm):
                if not self._knows(value.source):
                    self.why = self.why or "a norm waits whose input it does not compute"
                tensors.append((place, self._slot(value.source)))
                given[place] = PendingNorm(value.owed, value.silu)
            elif self._knows(value):
                tensors.append((place, self.slots[value]))
                given[place] = None
            elif isinstance(value, list | tuple) and any(map(self._knows, value)):
                lists.append((place, [self.slots[entry] if self._knows(entry) else None for entry in value]))
                given[place] = [None if self._knows(entry) else entry for entry in value]
        if function in NUMBERS and tensors:
            self.why = self.why or "it reads a number off what it computes"
        if any(map(self._knows, kwargs.values())):
            self.why = self.why or f"{function} takes a tensor by name"
        results = list(made) if isinstance(made, list | tuple) else [made]
        makes = [self._slot(result) if isinstance(result, Tensor) else None for result in results]
        if any(slot is not None for slot in makes):
            single = not isinstance(made, list | tuple)
            self.nodes.append(Node(function, given, kwargs, tensors, lists, makes, single))

    def _slot(self, tensor: Tensor) -> int:
        if tensor not in self.slots:
            self.slots[tensor] = self.size
            self.size += 1
        return self.slots[tensor]

    def _knows(self, value: Any) -> bool:
        return isinstance(value, Tensor) and value in self.slots


def _changes_nothing(function: Any, args: Sequence[Any], made: Any) -> bool:
    """Whether an operator gave back what it was given: the very tensor, or the same numbers times one."""
    if not args or not isinstance(args[0], Tensor) or function._schema.is_mutable:
        return False
    one = len(args) > 1 and isinstance(args[1], int | float) and args[1] == 1
    return made is args[0] or (function in SCALINGS and one and made.dtype == args[0].dtype)


def _needed(nodes: list[Node], kept: set[int]) -> list[Node]:
    """The operators that ``kept`` slots need; each then says which slots nobody reads after it."""
    later, found = set(kept), []
    for node in reversed(nodes):
        # Whatever is no operator of torch's may do more than it gives back.
        pure = isinstance(node.function, torch._ops.OpOverload) and not node.function._schema.is_mutable
        made = {slot for slot in node.makes if slot is not None}
        if pure and later.isdisjoint(made):
            continue
        touched = {slot for _, slot in node.tensors} | made
        touched |= {slot for _, slots in node.lists for slot in slots if slot is not None}
        node.done = sorted(touched - later)
        later |= touched
        found.append(node)
    return found[::-1]
