"""Backends by name, and what users call them. Nothing here needs torch."""

from typing import TYPE_CHECKING

from tempoquant.errors import unknown
from tempoquant.extension import Names
from tempoquant.plugins import load_plugins

if TYPE_CHECKING:
    from tempoquant.kernels.backends import Backend

BACKENDS: "Names[Backend]" = Names(
    "engine", {"onednn": "tempoquant.kernels.onednn", "simulation": "tempoquant.kernels.simulation"}
)
ALIASES = {"auto": "onednn", "integer": "onednn"}
"""Other names of a backend: "auto" is the one that is chosen unless another is asked for."""
ENGINES = (*ALIASES, *BACKENDS.built_in)
"""Names of engines that come with the package; plugins may add others."""


def backend_name(engine: str) -> str:
    """The name of the backend that an engine's name stands for, those of installed plugins included.

    Raises:
        InputError: there is none; with the nearest valid names.
    """
    name = ALIASES.get(engine, engine)
    if name not in BACKENDS.names:
        load_plugins()
    if name not in BACKENDS.names:
        raise unknown("engine", engine, (*ALIASES, *BACKENDS.names))
    return name
