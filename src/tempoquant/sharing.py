"""Modules that several threads call at once: state by thread, and `with` blocks that overlap in any order."""

import copy
import functools
import threading
from collections.abc import Callable
from typing import Any, ClassVar, Self

from torch import nn


class PerThread(threading.local):
    """Attributes of which every thread has its own values; a new thread finds those of the class.

    By thread, as torch's own modes are, and not by context variable: those of dropped objects would never be freed. A
    deep copy has the values of the thread that made it, a pickled one has none.
    """

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        other = type(self)()
        other.__dict__.update(self.__dict__)
        return other

    def __reduce__(self) -> tuple[type[Self], tuple[()]]:
        return type(self), ()


class SharedBlock:
    """A context manager of which all overlapping `with` blocks on one module are one, whatever their threads.

    The first block starts it, and ``as`` gives that one to all others; the last to be left, in any order, stops it.

    Args:
        module: what the blocks are about.
    """

    _lock: ClassVar[threading.Lock]
    _open: ClassVar[dict[nn.Module, Any]]

    def __init_subclass__(cls) -> None:
        cls._lock, cls._open = threading.Lock(), {}

    def __init__(self, module: nn.Module):
        self.module, self._blocks = module, 0

    def start(self) -> None:
        """What the first block does on entering."""
        raise NotImplementedError(f"{type(self).__name__} must define start")

    def stop(self) -> None:
        """What the last block does on leaving."""
        raise NotImplementedError(f"{type(self).__name__} must define stop")

    def __enter__(self) -> Self:
        with self._lock:
            if self.module not in self._open:
                self.start()
                self._open[self.module] = self
            first = self._open[self.module]
            first._blocks += 1
            return first

    def __exit__(self, *_: Any) -> None:
        with self._lock:
            first = self._open[self.module]
            first._blocks -= 1
            if not first._blocks:
                del self._open[self.module]
                first.stop()


class SurroundedForward:
    """A module's ``forward`` with functions around it, and the signature of the original; see :func:`surround`."""

    def __init__(self, module: nn.Module):
        functools.update_wrapper(self, module.forward, updated=())
        self.own = "forward" in vars(module)
        self.forward = self.composed = module.forward
        self.functions: tuple[Callable[..., Any], ...] = ()

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self.composed(*args, **kwargs)

    def __deepcopy__(self, memo: dict[int, Any]) -> Any:
        """The copied module's original: a block is about the module that it was given."""
        return copy.deepcopy(self.forward, memo)

    def use(self, functions: tuple[Callable[..., Any], ...]) -> None:
        """Let calls go through these from now on, the first one innermost; calls under way are left alone."""
        self.functions = functions
        self.composed = functools.reduce(lambda inner, outer: functools.partial(outer, inner), functions, self.forward)


_CHANGING = threading.Lock()


def surround(module: nn.Module, function: Callable[..., Any], *, innermost: bool = False) -> Callable[[], None]:
    """Let calls of ``module.forward`` go through ``function(forward, *args, **kwargs)``, in all threads.

    Not hooks: calls under way in other threads may stumble over those that come and go.

    Returns:
        What undoes it, in any order with what undoes others; the last one leaves ``module`` as it was.
    """
    with _CHANGING:
        present = vars(module).get("forward")
        surrounded = present if isinstance(present, SurroundedForward) else SurroundedForward(module)
        module.forward = surrounded
        surrounded.use((function, *surrounded.functions) if innermost else (*surrounded.functions, function))

    def undo() -> None:
        with _CHANGING:
            surrounded.use(tuple(other for other in surrounded.functions if other is not function))
            if surrounded.functions or vars(module).get("forward") is not surrounded:
                return
            if surrounded.own:
                module.forward = surrounded.forward
            else:
                del module.forward

    return undo
