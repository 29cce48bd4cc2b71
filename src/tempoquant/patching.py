"""Functions in the place of an object's own, most often a module's ``forward``, and how graph capture treats them."""

import copy
import enum
import functools
import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

from tempoquant.sharing import PerThread

Function = Callable[..., Any]
Undo = Callable[[], None]
Declared = TypeVar("Declared", bound=Function)


class GraphRole(enum.Enum):
    """What a graph capture makes of a function that was put in the place of a module's own, or added as a hook.

    INLINE: its operators are captured one by one, its Python runs no more. OPAQUE: it is captured as one operator and
    called at every replay. A function that declares neither cannot be captured: a graph might leave out what it does.
    """

    INLINE = enum.auto()
    OPAQUE = enum.auto()


def in_graph(role: GraphRole) -> Callable[[Declared], Declared]:
    """Decorator of functions and methods: declares their role in a captured graph."""

    def declare(function: Declared) -> Declared:
        function.graph_role = role  # type: ignore[attr-defined]
        return function

    return declare


def graph_role(function: Any) -> GraphRole | None:
    """The role that a function, a bound method or a callable object declares; None if it declares none."""
    return getattr(function, "graph_role", None)


class _Capture(PerThread):
    """The graph capture of a thread.

    Attributes:
        as_operator: turns a function into one that is captured as one operator; None while nothing is captured.
    """

    as_operator: Callable[[Function], Function] | None = None


CAPTURE = _Capture()


def opaque(function: Function, *args: Any, **kwargs: Any) -> Any:
    """``function(*args, **kwargs)``, captured as one operator if this thread captures a graph.

    For functions that read the clock or remember what they computed: their results must not become constants.
    """
    as_operator = CAPTURE.as_operator
    return (function if as_operator is None else as_operator(function))(*args, **kwargs)


@dataclass(frozen=True, eq=False)
class _Patch:
    """One function on top of another.

    Attributes:
        function: takes the function below as its first argument if ``around``; else it is called in its place.
        lasting: whether copies of the object have it too.
    """

    function: Function
    around: bool
    lasting: bool

    def over(self, below: Function) -> Function:
        """What is called where ``below`` was."""
        args = (below,) if self.around else ()
        if graph_role(self.function) is GraphRole.OPAQUE:
            return functools.partial(opaque, self.function, *args)
        return functools.partial(self.function, *args) if args else self.function


class Patched:
    """An object's function under patches, with the signature of the original.

    Attributes:
        original: the function below all patches. own: whether the object had it of its own, not from its class.
    """

    def __init__(self, original: Function, own: bool, patches: tuple[_Patch, ...] = ()):
        functools.update_wrapper(self, original, updated=())
        self.original, self.own = original, own
        self.use(patches)

    def use(self, patches: tuple[_Patch, ...]) -> None:
        """Let calls go through these from now on, the first one innermost; calls under way are left alone."""
        self.patches = patches
        self.composed = functools.reduce(lambda below, patch: patch.over(below), patches, self.original)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self.composed(*args, **kwargs)

    def __deepcopy__(self, memo: dict[int, Any]) -> Any:
        """The copied object's function, under copies of the lasting patches alone."""
        original = copy.deepcopy(self.original, memo)
        lasting = (copy.deepcopy(patch, memo) for patch in self.patches if patch.lasting)
        patches = tuple(lasting)
        return Patched(original, self.own, patches) if patches else original

    @property
    def graph_role(self) -> GraphRole | None:
        """INLINE if every patch declares a role, and the original is the class's or declares one."""
        below = (self.original,) if self.own else ()
        functions = (*below, *(patch.function for patch in self.patches))
        return GraphRole.INLINE if all(map(graph_role, functions)) else None


_CHANGING = threading.Lock()


def surround(
    owner: Any, function: Function, name: str = "forward", *, innermost: bool = False, lasting: bool = False
) -> Undo:
    """Let calls of ``owner``'s function go through ``function(previous, *args, **kwargs)``, in all threads.

    Not by hooks: calls under way in other threads may stumble over those that come and go.

    Args:
        owner: a module, or any object with a ``__dict__``.
        function: ``previous`` is what was called before. It may declare its :class:`GraphRole`.
        name: of the attribute.
        innermost: below what surrounds it already.
        lasting: copies of ``owner`` have it too. Those that do are always below those that do not.

    Returns:
        What undoes it, in any order with what undoes others; the last one leaves ``owner`` as it was.
    """
    return _put(owner, name, _Patch(function, True, lasting), innermost)


def substitute(owner: Any, function: Function, name: str = "forward") -> Undo:
    """As :func:`surround`, with a function that is called in the place of what was there, with the same arguments."""
    return _put(owner, name, _Patch(function, False, False), False)


def own_function(owner: Any, name: str = "forward") -> Function | None:
    """What stands in the place of the class's function; None if nothing does."""
    present = vars(owner).get(name)
    bound_to, function = getattr(present, "__self__", None), getattr(present, "__func__", None)
    # As in a copy of an object that was patched.
    of_class = bound_to is owner and function is getattr(type(owner), name, None)
    return None if of_class else present


def remove_patches(owner: Any, kind: type, name: str = "forward") -> None:
    """Undo the patches of ``owner`` whose function is a ``kind``; a copy of a patched object has no other undo."""
    present = vars(owner).get(name)
    if isinstance(present, Patched):
        _take(owner, name, present, [patch for patch in present.patches if isinstance(patch.function, kind)])


def _put(owner: Any, name: str, patch: _Patch, innermost: bool) -> Undo:
    with _CHANGING:
        present = vars(owner).get(name)
        is_new = not isinstance(present, Patched)
        patched = Patched(getattr(owner, name), own_function(owner, name) is not None) if is_new else present
        ordered = (patch, *patched.patches) if innermost else (*patched.patches, patch)
        patched.use(tuple(sorted(ordered, key=lambda other: not other.lasting)))
        if is_new:
            setattr(owner, name, patched)
    return functools.partial(_take, owner, name, patched, [patch])


def _take(owner: Any, name: str, patched: Patched, patches: list[_Patch]) -> None:
    """Take patches off; the last leaves the attribute as it was, unless somebody else has set it since."""
    with _CHANGING:
        patched.use(tuple(patch for patch in patched.patches if patch not in patches))
        if patched.patches or vars(owner).get(name) is not patched:
            return
        if patched.own:
            setattr(owner, name, patched.original)
        else:
            delattr(owner, name)
