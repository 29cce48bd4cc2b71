"""Which folders are quantized; nothing here needs torch."""

from pathlib import Path

from tempoquant.errors import FormatError, InputError
from tempoquant.outputs import interrupted_replacement, is_unfinished
from tempoquant.pipelines import COMPONENTS

BARE = "denoiser"
"""The folder of a bare denoiser."""


def is_quantized(folder: Path) -> bool:
    """Whether a folder holds a component with a ``quantization_config``."""
    return any(_says_quantized(path) for path in folder.glob("*/config.json"))


def component_of(folder: Path) -> str:
    """The name of a quantized folder's denoiser: a usual one, or else one whose configuration says so.

    Raises:
        InputError: there is no such folder.
        FormatError: it has none, or writing it was interrupted.
    """
    if not folder.is_dir():
        raise InputError(interrupted_replacement(folder) or f"{str(folder)!r} is no folder")
    if is_unfinished(folder):
        raise FormatError(f"{folder} was left by a run that was killed while it was writing: delete it")
    usual = [name for name in (*COMPONENTS, BARE) if (folder / name / "config.json").is_file()]
    others = (path.parent.name for path in sorted(folder.glob("*/config.json")) if _says_quantized(path))
    component = next(iter([*usual, *others]), None)
    if component is None:
        raise FormatError(f"{folder} is no quantized folder: it has no {', '.join(COMPONENTS)} or {BARE}")
    return component


def _says_quantized(path: Path) -> bool:
    return path.is_file() and b"quantization_config" in path.read_bytes()
