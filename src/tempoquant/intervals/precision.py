"""Tensors whose precision is part of what they mean."""

from collections.abc import Callable
from typing import Any

from torch import nn


class KeepsPrecision(nn.Module):
    """A module whose own buffers keep their dtype when it is cast: scales in half precision would be other scales.

    They still move between devices.
    """

    def _apply(self, fn: Callable[..., Any], recurse: bool = True) -> Any:
        kept = {name: buffer for name, buffer in self._buffers.items() if buffer is not None}
        super()._apply(fn, recurse)
        for name, before in kept.items():
            after = self._buffers[name]
            if after is not None and after.dtype != before.dtype:
                self._buffers[name] = before.to(after.device)
        return self
