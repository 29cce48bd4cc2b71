"""Work in float32 whatever torch's default dtype is: what is drawn must not follow a setting of the process."""

from contextlib import ContextDecorator
from threading import Lock

import torch


class Float32Default(ContextDecorator):
    """A ``with`` block, or a decorator, within which torch's default dtype is float32.

    The setting belongs to the process: it is put back when the last of all threads leaves.
    """

    def __init__(self) -> None:
        self._lock, self._inside, self._before = Lock(), 0, torch.float32

    def __enter__(self) -> None:
        with self._lock:
            if not self._inside:
                self._before = torch.get_default_dtype()
                torch.set_default_dtype(torch.float32)
            self._inside += 1

    def __exit__(self, *_: object) -> None:
        with self._lock:
            self._inside -= 1
            if not self._inside:
                torch.set_default_dtype(self._before)


in_float32 = Float32Default()
"""The one of this process."""
