"""Finished units on disk, so that a killed run continues where it stopped."""

import os
from collections.abc import Mapping
from pathlib import Path

from safetensors.torch import load_file, save_file
from torch import Tensor


class UnitCache:
    """Tensors of finished units, one safetensors file each, written whole or not at all.

    Args:
        folder: where files lie; None keeps nothing.
    """

    def __init__(self, folder: Path | None):
        self.folder = folder
        if folder is not None:
            folder.mkdir(parents=True, exist_ok=True)

    def load(self, unit: str) -> dict[str, Tensor] | None:
        """The unit's tensors, or None if it is not finished."""
        if self.folder is None or not self._path(unit).exists():
            return None
        return load_file(self._path(unit))

    def save(self, unit: str, tensors: Mapping[str, Tensor]) -> None:
        """Keep a finished unit."""
        if self.folder is None:
            return
        path = self._path(unit)
        temporary = path.with_suffix(".writing")
        save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, temporary)
        os.replace(temporary, path)

    def _path(self, unit: str) -> Path:
        assert self.folder is not None
        return self.folder / f"{unit.replace('/', '_')}.safetensors"
