"""Finished units on disk, so that a killed run continues where it stopped."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from tempoquant.documents import read_json
from tempoquant.errors import FormatError, InputError
from tempoquant.files import TEMPORARY, save_tensors, write_whole


class UnitCache:
    """Tensors of finished units, one safetensors file each, written whole or not at all.

    Args:
        folder: where files lie.
        identity: everything the weights depend on; a folder of another identity is refused.

    Raises:
        InputError: the folder holds units of other settings, or something else.
    """

    def __init__(self, folder: Path, identity: Mapping[str, Any]):
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        marker, requested = folder / "units.json", json.loads(json.dumps(identity))
        if not marker.exists():
            foreign = [path.name for path in folder.iterdir() if not path.name.startswith(TEMPORARY)]
            if foreign:
                raise InputError(f"{folder} holds {foreign[0]!r}, no finished units: use a new or empty folder")
            write_whole(marker, json.dumps(requested, indent=1))
        found = read_json(marker, "is damaged, use another folder")
        for key in {**requested, **found}:
            if found.get(key) != requested.get(key):
                raise InputError(f"{folder} holds units made with another {key}: use another folder")

    def load(self, unit: str) -> dict[str, Tensor] | None:
        """The unit's tensors, or None if it is not finished."""
        if not self._path(unit).exists():
            return None
        try:
            return load_file(self._path(unit))
        except SafetensorError as error:
            first = str(error).splitlines()[0]
            raise FormatError(f"{self._path(unit)} cannot be read: {first}; delete it to make it again") from None

    def save(self, unit: str, tensors: Mapping[str, Tensor]) -> None:
        """Keep a finished unit."""
        save_tensors(tensors, self._path(unit))

    def _path(self, unit: str) -> Path:
        return self.folder / f"{unit.replace('/', '_')}.safetensors"
