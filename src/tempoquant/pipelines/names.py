"""What users call models, checked before anything is loaded; nothing here needs torch."""

import re
from pathlib import Path

from tempoquant.errors import FormatError, InputError, unknown

COMPONENTS = ("unet", "transformer")
"""Of diffusers pipelines, that are denoisers."""
BUNDLED = ("fashion32", "fashion32-class")
FORMS = (*BUNDLED, "DIFFUSERS_FOLDER", "FILE.ckpt", "FILE.safetensors", "FILE.py:FACTORY", "HUB_ORG/NAME")
CHECKPOINTS = (".ckpt", ".safetensors")
HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[\w.-]+")


def check_model_name(name: str) -> None:
    """Refuse what :func:`~tempoquant.pipelines.resolve` cannot load, as far as that is seen without loading.

    Raises:
        InputError: it is of no form that a model's name has, the file is not there, or the folder needs a factory.
        FormatError: the folder is no diffusers folder.
    """
    if Path(name).is_dir():
        _check_folder(Path(name))
        return
    file = _file_of(name)
    if file is not None and not file.is_file():
        raise InputError(f"no such file: {file}")
    if file is None and name not in BUNDLED and not HUB_ID.fullmatch(name):
        raise unknown("model", name, FORMS)


def _check_folder(folder: Path) -> None:
    if (folder / "model_index.json").is_file():
        return
    if (folder / "denoiser").is_dir():
        raise InputError(f"{folder} holds a bare denoiser without its class: tempoquant.load(dir, denoiser=factory())")
    raise FormatError(f"{folder} is not a diffusers folder: it has no model_index.json")


def _file_of(name: str) -> Path | None:
    """The checkpoint, or the Python file of ``FILE.py:FACTORY``, that a name names; None if it names no file."""
    path, _, _ = name.rpartition(":")
    if Path(name).suffix in CHECKPOINTS:
        return Path(name)
    return Path(path) if path.endswith(".py") else None
