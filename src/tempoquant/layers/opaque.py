"""Functions that are one operator to a graph capture, whatever they compute inside."""

from collections.abc import Callable
from typing import Any

from tempoquant.sharing import PerThread

Function = Callable[..., Any]


class _Capture(PerThread):
    """The capture that goes on in a thread.

    Attributes:
        as_operator: makes of a function one that is captured as one operator; None while nothing is captured.
    """

    as_operator: Callable[[Function], Function] | None = None


CAPTURE = _Capture()


def opaque(function: Function, *args: Any) -> Any:
    """``function(*args)``, captured as one operator if this thread captures a graph.

    So are all that read numbers off the clock, or remember what they computed: such calls must not become constants.
    """
    as_operator = CAPTURE.as_operator
    return function(*args) if as_operator is None else as_operator(function)(*args)
