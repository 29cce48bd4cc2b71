"""Modules that several threads call at once: state by thread, and `with` blocks that overlap in any order."""

import threading
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
