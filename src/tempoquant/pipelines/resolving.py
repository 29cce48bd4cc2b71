"""The :class:`Model` of what a user names: a name, folder, checkpoint, factory in a file, hub id or object."""

import inspect
from importlib.resources import files
from pathlib import Path
from typing import Any

from diffusers import DiffusionPipeline
from diffusers.utils import logging
from safetensors import safe_open

from tempoquant.documents import read_json, regular
from tempoquant.errors import FormatError, InputError, first_line
from tempoquant.pipelines.building import parameters_within
from tempoquant.pipelines.diffusers_model import DiffusersModel
from tempoquant.pipelines.index import INDEX, pipeline_class
from tempoquant.pipelines.model import BareModel, Model
from tempoquant.pipelines.names import BUNDLED, CHECKPOINTS, FORMS, check_model_name
from tempoquant.plugins import import_file
from tempoquant.sampling import Denoiser

SAFE = {"use_safetensors": True, "trust_remote_code": False}
"""Safetensors only, since pickles run code; trust_remote_code off keeps a folder's own .py files unread."""


def resolve(model: "str | Path | DiffusionPipeline | Denoiser | Model") -> Model:
    """The model that ``model`` names.

    Args:
        model: a bundled name (``"fashion32"``), a diffusers folder, a checkpoint of the papers' code bases (``.ckpt``,
            ``.safetensors``), ``"FILE.py:FACTORY"`` (imports the user's own file and calls the function, which returns
            a :class:`Denoiser` or a pipeline), a hub id, or one of these objects.

    Raises:
        InputError: there is no such model, or the factory fails.
        FormatError: the folder is not a loadable diffusers folder.
    """
    if isinstance(model, Denoiser):
        return BareModel(model)
    if isinstance(model, DiffusionPipeline):
        return DiffusersModel(model)
    if isinstance(model, (BareModel, DiffusersModel)):
        return model
    if not isinstance(model, (str, Path)):
        raise InputError(
            f"a {type(model).__name__} is not a model; give one of: {', '.join(FORMS)}, pipeline, Denoiser"
        )
    text = str(model)
    check_model_name(text)
    if Path(text).is_dir():
        return _from_folder(Path(text), Path(text).resolve().name)
    if text in BUNDLED:
        return _from_folder(Path(str(files("tempoquant"))) / "assets" / text, text)
    if Path(text).suffix in CHECKPOINTS:
        return _from_checkpoint(Path(text))
    path, _, factory = text.rpartition(":")
    if path.endswith(".py"):
        return _from_factory(Path(path), factory)
    return _from_hub(text)


def _from_folder(folder: Path, name: str) -> Model:
    try:
        pipe = load_pipeline(folder)
    except Exception as error:
        raise FormatError(f"{folder} cannot be loaded as a diffusers folder: {first_line(error)}") from error
    return DiffusersModel(pipe, name)


def _from_checkpoint(path: Path) -> Model:
    # Its imports bring text encoders, seconds and warnings that no other model needs.
    from tempoquant.models.compvis.assemble import load_checkpoint

    return DiffusersModel(load_checkpoint(path), path.stem)


def load_pipeline(folder: Path, **components: Any) -> DiffusionPipeline:
    """A diffusers pipeline from a folder, without pickles, foreign code or a progress bar.

    Args:
        components: in the place of the folder's own.

    Raises:
        FormatError: its index names what is not loaded, or a configuration is of more than the folder holds.
    """
    loader: Any = pipeline_class(folder)
    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        with parameters_within(*_room(folder)):
            parts = {**_absent(folder, loader), **components}
            return loader.from_pretrained(str(folder), local_files_only=True, **SAFE, **parts)
    finally:
        if shown:
            logging.enable_progress_bar()


def _absent(folder: Path, loader: type[DiffusionPipeline]) -> dict[str, None]:
    """Components that a pipeline was saved without and that diffusers loads no folder without, such as SD3's T5."""
    optional = getattr(loader, "_optional_components", ())
    needed = inspect.signature(loader).parameters.keys() - set(optional)
    return {name: None for name, entry in read_json(folder / INDEX).items() if entry == [None, None] and name in needed}


def _room(folder: Path) -> tuple[int, int]:
    """How many tensors the components' files hold, and how many numbers at most."""
    files = [regular(path) for pattern in ("*.safetensors", "*/*.safetensors") for path in folder.glob(pattern)]
    tensors = 0
    for path in files:
        with safe_open(path, "pt") as file:
            tensors += len(file.keys())
    # Four bits a number, in the smallest of other formats.
    return tensors, 2 * sum(path.stat().st_size for path in files)


def _from_hub(name: str) -> Model:
    try:
        pipe = load_pipeline(Path(DiffusionPipeline.download(name, **SAFE)))
    except Exception as error:
        raise InputError(f"no folder {name!r} here, and the hub gave none: {first_line(error)}") from error
    return DiffusersModel(pipe, name)


def _from_factory(path: Path, factory: str) -> Model:
    make = getattr(import_file(path), factory, None)
    if not callable(make):
        raise InputError(f"{path} has no function {factory!r}")
    try:
        built: Any = make()
    except (Exception, SystemExit) as error:
        raise InputError(f"{path}:{factory} failed: {type(error).__name__}: {first_line(error)}") from error
    if isinstance(built, Denoiser):
        return BareModel(built)
    if isinstance(built, DiffusionPipeline):
        return DiffusersModel(built)
    raise InputError(f"{path}:{factory} returned {type(built).__name__}; a Denoiser or a diffusers pipeline is needed")
