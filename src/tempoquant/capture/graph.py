"""ATen operators of one forward, captured by a TorchDispatchMode and replayed without module calls."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Self

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import TreeSpec, tree_flatten, tree_unflatten
from torch.utils.weak import WeakIdKeyDictionary

from tempoquant.patching import CAPTURE

READS_VALUE = (torch.ops.aten._local_scalar_dense.default, torch.ops.aten.is_nonzero.default)
"""Operators that give Python a value of a tensor, on which its control flow may depend."""
SCALINGS = (torch.ops.aten.div.Tensor, torch.ops.aten.mul.Tensor)


class Slot(NamedTuple):
    """A place among a replay's tensors, by number: inputs first."""

    number: int


@dataclass
class Node:
    """One operator of a graph.

    Attributes:
        function: the operator, or the function that was captured as one.
        args: its arguments; those of ``tensors`` and ``lists`` are filled in at every replay. In the place of a
            deferred tensor stands what builds it from the tensor of the slot, in that of other tensors None.
        kwargs: its keyword arguments, none of them a captured tensor.
        tensors: (index in ``args``, slot) of every captured tensor.
        lists: (index in ``args``, slots) of every list with captured tensors; None where an entry is constant.
        outputs: the slots of its results; None for a result that is no tensor.
        single: whether it returns one result and not a list of them.
        freed: slots that no later node reads.
    """

    function: Callable[..., Any]
    args: list[Any]
    kwargs: dict[str, Any]
    tensors: list[tuple[int, int]]
    lists: list[tuple[int, list[int | None]]]
    outputs: list[int | None]
    single: bool
    freed: list[int] = field(default_factory=list)

    def run(self, values: list[Any]) -> None:
        """Compute the output slots of ``values`` from its other slots, then clear those of ``freed``."""
        args = self.args.copy()
        for place, slot in self.tensors:
            build = args[place]
            args[place] = values[slot] if build is None else build(values[slot])
        for place, slots in self.lists:
            args[place] = [e if s is None else values[s] for e, s in zip(args[place], slots, strict=True)]
        result = self.function(*args, **self.kwargs)
        if self.single:
            values[self.outputs[0]] = result  # type: ignore[index]
        else:
            for target, output in zip(self.outputs, result, strict=True):
                if target is not None:
                    values[target] = output
        for slot in self.freed:
            values[slot] = None


@dataclass
class CapturedGraph:
    """The operators of one forward; called with tensors like the captured inputs it returns what the forward returned.

    Attributes:
        nodes: the operators in the order in which they ran.
        size: how many slots they use.
        result: the leaves of the result, a :class:`Slot` for every tensor that was computed.
        spec: the tree of these leaves.
    """

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
    """Captures every operator that runs within its ``with`` block.

    Tensors that exist before are constants of the graph, but for the ``inputs``.

    Args:
        inputs: the tensors that change from call to call.

    Attributes:
        not_capturable: why the operators so far cannot be replayed; None if they can.
    """

    def __init__(self, inputs: Sequence[Tensor]):
        super().__init__()
        # By weak reference: intermediate results are freed as in an uncaptured call.
        self.slots = WeakIdKeyDictionary()
        self.size = len(inputs)
        for slot, tensor in enumerate(inputs):
            self.slots.setdefault(tensor, slot)
        self.nodes: list[Node] = []
        self.inside_operator = False
        self.outer: Callable[..., Any] | None = None
        self.not_capturable: str | None = None

    def __enter__(self) -> Self:
        self.outer, CAPTURE.as_operator = CAPTURE.as_operator, self.as_operator
        return super().__enter__()

    def __exit__(self, *error: Any) -> None:
        CAPTURE.as_operator = self.outer
        super().__exit__(*error)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if self.inside_operator:
            return func(*args, **(kwargs or {}))
        if any(map(_is_deferred, types)):
            return NotImplemented
        result = func(*args, **(kwargs or {}))
        if _is_identity(func, args, result):
            # A constant stays one.
            if self._is_captured(args[0]):
                self.slots[result] = self.slots[args[0]]
        else:
            self._add_node(func, args, kwargs or {}, result)
        return result

    def as_operator(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """``function`` captured as one operator, called again at every replay, whatever it computes inside."""

        def operator(*args: Any, **kwargs: Any) -> Any:
            if self.inside_operator:
                return function(*args, **kwargs)
            self.inside_operator = True
            try:
                result = function(*args, **kwargs)
            finally:
                self.inside_operator = False
            self._add_node(function, args, kwargs, result)
            return result

        return operator

    def graph(self, result: Any) -> CapturedGraph:
        """All that was captured, returning ``result``: any tree of tensors and other values."""
        leaves, spec = tree_flatten(result)
        outputs = [Slot(self.slots[leaf]) if self._is_captured(leaf) else leaf for leaf in leaves]
        if any(isinstance(leaf, Tensor) for leaf in outputs):
            self._refuse("a tensor of its result is created outside of the captured call")
        nodes = _needed(self.nodes, {leaf.number for leaf in outputs if isinstance(leaf, Slot)})
        return CapturedGraph(nodes, self.size, outputs, spec)

    def _add_node(self, function: Any, args: Sequence[Any], kwargs: dict[str, Any], result: Any) -> None:
        constants: list[Any] = list(args)
        tensors: list[tuple[int, int]] = []
        lists: list[tuple[int, list[int | None]]] = []
        for place, value in enumerate(args):
            if _is_deferred(type(value)):
                source, constants[place] = value.deferred_source()
                if not self._is_captured(source):
                    self._refuse("the deferred norm's input is created outside of the captured call")
                tensors.append((place, self._slot(source)))
            elif self._is_captured(value):
                tensors.append((place, self.slots[value]))
                constants[place] = None
            elif isinstance(value, list | tuple) and any(map(self._is_captured, value)):
                lists.append((place, [self.slots[entry] if self._is_captured(entry) else None for entry in value]))
                constants[place] = [None if self._is_captured(entry) else entry for entry in value]
        if function in READS_VALUE and tensors:
            self._refuse("Python reads a value that it computes")
        if any(map(self._is_captured, kwargs.values())):
            self._refuse(f"{function} takes a tensor as a keyword argument")
        single = not isinstance(result, list | tuple)
        results = [result] if single else list(result)
        outputs = [self._slot(entry) if isinstance(entry, Tensor) else None for entry in results]
        if any(slot is not None for slot in outputs):
            self.nodes.append(Node(function, constants, kwargs, tensors, lists, outputs, single))

    def _refuse(self, reason: str) -> None:
        self.not_capturable = self.not_capturable or f"not capturable: {reason}"

    def _slot(self, tensor: Tensor) -> int:
        if tensor not in self.slots:
            self.slots[tensor] = self.size
            self.size += 1
        return self.slots[tensor]

    def _is_captured(self, value: Any) -> bool:
        return isinstance(value, Tensor) and value in self.slots


def _is_deferred(kind: type) -> bool:
    """Whether a tensor class is one of tensors that are computed when they are first read.

    These have a method ``deferred_source() -> (tensor, build)``: what it is computed from, and what makes the deferred
    tensor of another such tensor at a replay.
    """
    return hasattr(kind, "deferred_source")


def _is_identity(function: Any, args: Sequence[Any], result: Any) -> bool:
    """Whether an operator returned its first argument: the very tensor, or the same values times or by one."""
    if not args or not isinstance(args[0], Tensor) or function._schema.is_mutable:
        return False
    by_one = len(args) > 1 and isinstance(args[1], int | float) and args[1] == 1
    return result is args[0] or (function in SCALINGS and by_one and result.dtype == args[0].dtype)


def _needed(nodes: list[Node], read_later: set[int]) -> list[Node]:
    """The nodes that the slots of ``read_later`` need, in order, with their ``freed`` filled in."""
    later, needed = set(read_later), []
    for node in reversed(nodes):
        # A function that is no operator of torch's may do more than return its result.
        pure = isinstance(node.function, torch._ops.OpOverload) and not node.function._schema.is_mutable
        outputs = {slot for slot in node.outputs if slot is not None}
        if pure and later.isdisjoint(outputs):
            continue
        touched = {slot for _, slot in node.tensors} | outputs
        touched |= {slot for _, slots in node.lists for slot in slots if slot is not None}
        node.freed = sorted(touched - later)
        later |= touched
        needed.append(node)
    return needed[::-1]
