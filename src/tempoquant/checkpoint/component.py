"""The denoiser's own folder: ``config.json`` with the ``quantization_config``, and one safetensors file."""

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import nn

from tempoquant.checkpoint.blueprint import Blueprint
from tempoquant.checkpoint.features import stored_stand_ins
from tempoquant.checkpoint.tensors import layout, packed_tensors, unpack_into
from tempoquant.correction.tables import PREFIX as CORRECTION
from tempoquant.correction.tables import CorrectionTables
from tempoquant.errors import FormatError, InputError
from tempoquant.intervals import Clock
from tempoquant.layers import install_attention, install_layers, install_splits, install_stand_ins

WEIGHTS = "diffusion_pytorch_model.safetensors"


def write_component(
    folder: Path, module: nn.Module, blueprint: Blueprint, clock: Clock, correction: CorrectionTables | None = None
) -> None:
    """Write a quantized denoiser, with the correction of its predictions, into ``folder``, which is made.

    A diffusers module's config is kept, so that its class can be built again; a bare one's has only ours.
    """
    folder.mkdir(parents=True)
    config = {k: v for k, v in dict(getattr(module, "config", {})).items() if k != "quantization_config"}
    if config:
        config["_class_name"] = type(module).__name__
    config["quantization_config"] = blueprint.to_config(module) | {"layout": layout(module)}
    tensors = packed_tensors(module, clock) | ({} if correction is None else correction.to_tensors())
    save_file(tensors, folder / WEIGHTS, metadata={"format": "pt"})
    # The config comes last: a folder without it does not load.
    (folder / "config.json").write_text(json.dumps(config, indent=2, default=list) + "\n")


def read_component(folder: Path, build: Callable[[dict[str, Any]], nn.Module]) -> tuple[nn.Module, Blueprint, Clock]:
    """Read a quantized denoiser.

    Args:
        build: makes the stock module, weights as they come, from the component's config.

    Raises:
        FormatError: the folder is not ours, truncated, or does not fit the module.
    """
    config = read_config(folder)
    ours = config["quantization_config"]
    with _damage_of(folder):
        blueprint = Blueprint.from_config(ours)
    module = build({k: v for k, v in config.items() if k != "quantization_config"})
    try:
        tensors = load_file(folder / WEIGHTS)
    except (OSError, SafetensorError) as error:
        raise FormatError(f"{folder / WEIGHTS} cannot be read: {str(error).splitlines()[0]}") from None
    if "tempoquant.timesteps" not in tensors:
        raise FormatError(f"{folder / WEIGHTS} has no tensor 'tempoquant.timesteps'")
    timesteps = tensors["tempoquant.timesteps"]
    clock = Clock(timesteps, blueprint.time_argument.position, blueprint.time_argument.name)
    with _damage_of(folder):
        install_splits(module, blueprint.splits)
        install_stand_ins(module, stored_stand_ins(ours.get("stand_ins", {}), tensors, clock))
        install_layers(module, ours["layers"])
        install_attention(module, blueprint.attention)
        if ours.get("layout", layout(module)) != layout(module):
            raise FormatError(f"{folder}: the denoiser's tensors differ in name or shape from those stored here")
        unpack_into(module, ours, tensors, clock)
    clock.attach(module)
    return module.eval(), blueprint, clock


@contextmanager
def _damage_of(folder: Path) -> Iterator[None]:
    """Errors of a config whose entries are not what they should be, in one line."""
    try:
        yield
    except (InputError, LookupError, TypeError, ValueError, ArithmeticError, AttributeError, RuntimeError) as error:
        what = (str(error).splitlines() or [""])[0]
        path = folder / "config.json"
        raise FormatError(f"{path}: its quantization_config is damaged: {type(error).__name__}: {what}") from error


def read_correction(folder: Path, blueprint: Blueprint, clock: Clock) -> CorrectionTables | None:
    """The correction that the component's recipe names; None for a recipe without one.

    Raises:
        FormatError: its statistics are missing, or do not fit the clock.
    """
    wanted = blueprint.recipe.correction
    if wanted is None or wanted.kind == "none":
        return None
    with safe_open(folder / WEIGHTS, "pt") as file:
        tensors = {name: file.get_tensor(name) for name in file.keys() if name.startswith(CORRECTION)}  # noqa: SIM118
    try:
        return CorrectionTables.from_tensors(tensors, len(clock))
    except FormatError as error:
        raise FormatError(f"{folder}: {error}") from None


def read_config(folder: Path) -> dict[str, Any]:
    """The component's config.

    Raises:
        FormatError: missing, unreadable, or without a ``quantization_config``.
    """
    path = folder / "config.json"
    try:
        config = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise FormatError(f"{path} cannot be read: {str(error).splitlines()[0]}") from None
    if not isinstance(config, dict) or not isinstance(config.get("quantization_config"), dict):
        raise FormatError(f"{folder} holds a denoiser that is not quantized: its config has no quantization_config")
    return config
