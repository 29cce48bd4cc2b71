"""Attributes of a module given for a while."""

from collections.abc import Callable
from typing import Any

from torch import nn


def swapped(part: nn.Module, name: str, value: Any) -> Callable[[], None]:
    """Give ``part`` another attribute of its own.

    Returns:
        What puts back the one it had, or lets it have none of its own again.
    """
    had, own = name in vars(part), vars(part).get(name)
    setattr(part, name, value)

    def undo() -> None:
        if had:
            setattr(part, name, own)
        else:
            delattr(part, name)

    return undo
