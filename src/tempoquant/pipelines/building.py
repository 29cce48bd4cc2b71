"""A bound on what is built from a configuration, so that a damaged number ends in an error and not in a full memory."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch import nn
from torch.nn.modules.module import register_module_parameter_registration_hook

from tempoquant.errors import FormatError

OFTEN = 4
"""How often a module may register each of its parameters: tied ones, and loaders that put others in their place."""


@contextmanager
def parameters_within(weights: int, numbers: int) -> Iterator[None]:
    """Refuse to build modules with more parameters than a folder holds.

    They are counted as they are registered, which is before anything is written into their memory.

    Args:
        weights: how many tensors of two and more dimensions there are.
        numbers: elements of all parameters.

    Raises:
        FormatError: this thread builds more than four times as much within the block.
    """
    left, thread = {"weights": OFTEN * weights, "numbers": OFTEN * numbers}, threading.get_ident()

    def count(module: nn.Module, name: str, parameter: Any) -> None:
        if parameter is None or threading.get_ident() != thread:
            return
        left["weights"] -= parameter.dim() > 1
        left["numbers"] -= parameter.numel()
        if min(left.values()) < 0:
            raise FormatError("its configuration is of a larger model than the stored weights are")

    handle = register_module_parameter_registration_hook(count)
    try:
        yield
    finally:
        handle.remove()
