"""What a ``model_index.json`` names, checked before anything is imported: importing a module runs it."""

import sys
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import diffusers
from diffusers import DiffusionPipeline

from tempoquant.documents import read_json, regular
from tempoquant.errors import FormatError
from tempoquant.limits import MOST_TRAIN_TIMESTEPS
from tempoquant.models import ClassLatentPipeline, ClassPipeline

# Folders of before name these modules, which must be there when diffusers looks for them.
from tempoquant.pipelines import class_latent, class_pipeline, heads_unet  # noqa: F401

INDEX = "model_index.json"
LIBRARIES = ("diffusers", "transformers")
OWN = {own.__name__: own for own in (ClassPipeline, ClassLatentPipeline)}
"""Pipelines that diffusers does not know."""
CONFIGS = ("config.json", "scheduler_config.json", "preprocessor_config.json")


def pipeline_class(folder: Path) -> type[DiffusionPipeline]:
    """The pipeline class of a diffusers folder, all that its index names being safe to load.

    Components may be of diffusers, one of its pipelines, transformers, or a module that was imported already, this
    package's own among them.

    Raises:
        FormatError: the index cannot be read, names anything else, or a component's configuration cannot be read.
    """
    path = folder / INDEX
    index = read_json(path)
    for name, entry in index.items():
        if not name.startswith("_") and isinstance(entry, list):
            _check_component(path, name, entry)
            _check_configs(folder / name)
    found = _pipeline_of(index)
    if found is None:
        raise FormatError(f"{path}: diffusers has no pipeline {index.get('_class_name')!r}")
    return found


def _pipeline_of(index: Mapping[str, Any]) -> type[DiffusionPipeline] | None:
    name = str(index.get("_class_name"))
    found = OWN.get(name) or getattr(diffusers, name, None)
    return found if isinstance(found, type) and issubclass(found, DiffusionPipeline) else None


def _check_component(path: Path, name: str, entry: list[Any]) -> None:
    """Raise FormatError unless ``entry`` is a (library, class) that may be loaded, or of no component."""
    if entry == [None, None]:
        return
    if not name.isidentifier() or len(entry) != 2 or not all(isinstance(part, str) and part for part in entry):
        raise FormatError(f"{path}: {name} = {entry!r} is no library and class")
    library = entry[0]
    of_a_pipeline = library.isidentifier() and find_spec(f"diffusers.pipelines.{library}") is not None
    if library not in LIBRARIES and not of_a_pipeline and library not in sys.modules:
        raise FormatError(
            f"{path}: {name} is of the module {library!r}, which is not imported from a folder's word: "
            "diffusers and transformers are, and modules of your own that you imported before"
        )


def _check_configs(folder: Path) -> None:
    """Raise FormatError for files of a component that could hang, or make schedules without bound."""
    if not folder.is_dir():
        return
    for path in folder.iterdir():
        if not path.is_dir():
            regular(path)
    configs = {name: read_json(folder / name) for name in CONFIGS if (folder / name).exists()}
    steps = configs.get("scheduler_config.json", {}).get("num_train_timesteps", 1)
    if not isinstance(steps, int) or not 1 <= steps <= MOST_TRAIN_TIMESTEPS:
        where = folder / "scheduler_config.json"
        raise FormatError(f"{where}: num_train_timesteps = {steps!r}: valid are 1 to {MOST_TRAIN_TIMESTEPS}")
