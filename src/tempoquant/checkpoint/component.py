"""The denoiser's own folder: ``config.json`` with the ``quantization_config``, and one safetensors file."""

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file
from torch import Tensor, nn

from tempoquant.checkpoint.blueprint import Blueprint
from tempoquant.checkpoint.digest import DIGEST, check_digest, digest_of
from tempoquant.checkpoint.features import stored_conditions, stored_replacements
from tempoquant.checkpoint.settings import check_settings, module_settings
from tempoquant.checkpoint.tensors import layout, packed_tensors, unpack_into
from tempoquant.checkpoint.values import check_tables
from tempoquant.checkpoint.vectors import PREFIX
from tempoquant.correction import PREFIX as CORRECTION
from tempoquant.correction import CorrectionTables
from tempoquant.documents import read_json, regular
from tempoquant.errors import FormatError, InputError
from tempoquant.files import save_tensors, write_whole
from tempoquant.intervals import Clock
from tempoquant.layers import install_attention, install_layers
from tempoquant.pipelines import parameters_within
from tempoquant.temporal import install_replacements
from tempoquant.transforms import install_transforms

WEIGHTS = "diffusion_pytorch_model.safetensors"
INDEX = WEIGHTS + ".index.json"
TIMESTEPS = PREFIX + "timesteps"


def write_component(
    folder: Path, module: nn.Module, blueprint: Blueprint, clock: Clock, correction: CorrectionTables | None = None
) -> None:
    """Write a quantized denoiser, and the correction of its predictions, into a new folder.

    A diffusers module's own config is stored too, so that its class can be built from it.

    Args:
        folder: to create.
        module: the quantized denoiser.
        blueprint: its structure.
        clock: whose time steps are stored.
        correction: tables of a recipe that has one.
    """
    folder.mkdir(parents=True)
    config = {k: v for k, v in dict(getattr(module, "config", {})).items() if k != "quantization_config"}
    if config:
        config["_class_name"] = type(module).__name__
    config["quantization_config"] = full_config(module, blueprint, clock)
    tensors = packed_tensors(module, clock) | ({} if correction is None else correction.to_tensors())
    tensors[DIGEST] = digest_of(config["quantization_config"], tensors)
    save_tensors(tensors, folder / WEIGHTS, {"format": "pt"})
    # The config comes last: a folder without it does not load.
    write_whole(folder / "config.json", json.dumps(config, indent=2, default=list) + "\n")


def full_config(module: nn.Module, blueprint: Blueprint, clock: Clock) -> dict[str, Any]:
    """The whole ``quantization_config`` of ``module``, plain JSON data."""
    optional = {
        "frozen": clock.frozen,
        "conditions": [] if clock.conditions is None else list(clock.conditions.values),
        "settings": module_settings(module),
    }
    described = {name: entry for name, entry in optional.items() if entry}
    return blueprint.to_config(module) | {"layout": layout(module)} | described


def read_component(folder: Path, build: Callable[[dict[str, Any]], nn.Module]) -> tuple[nn.Module, Blueprint, Clock]:
    """Load a quantized denoiser from its component folder.

    Args:
        folder: the component's.
        build: makes the stock module, weights as they come, from the component's config.

    Returns:
        The module in evaluation mode, its structure, and its clock, attached.

    Raises:
        FormatError: the folder is not of this format, truncated, or does not fit the module.
    """
    config = read_config(folder)
    quantization = config["quantization_config"]
    with damage_of(folder):
        blueprint = Blueprint.from_config(quantization)
    tensors = read_tensors(folder)
    with parameters_within(*_size_limits(quantization, tensors)):
        module = build({k: v for k, v in config.items() if k != "quantization_config"})
    clock = fill(module, quantization, blueprint, tensors, folder)
    return module.eval(), blueprint, clock


def _size_limits(config: dict[str, Any], tensors: dict[str, Tensor]) -> tuple[int, int]:
    """How many weights, and how many numbers in all, the stock module of stored ``tensors`` can have at most.

    Weights that are not stored are those of layers replaced by tables; a byte holds at most four integers.
    """
    replaced = config.get("stand_ins", {}).values()
    stored = sum(tensor.numel() * tensor.element_size() for tensor in tensors.values())
    return len(tensors) + len(replaced), 4 * stored + sum(entry["parameters"] for entry in replaced)


def fill(
    module: nn.Module, config: dict[str, Any], blueprint: Blueprint, tensors: dict[str, Tensor], folder: Path | str
) -> Clock:
    """Turn a stock module, its weights as they come or on the meta device, into the stored quantized one, in place.

    Args:
        module: the stock denoiser.
        config: the ``quantization_config``.
        blueprint: of ``config``.
        tensors: as stored; weights are removed from it, so that none is held twice.
        folder: where both come from, for messages.

    Returns:
        Its clock, attached.

    Raises:
        FormatError: config, tensors and module do not fit each other.
    """
    if TIMESTEPS not in tensors or not tensors[TIMESTEPS].numel():
        raise FormatError(f"{folder} stores no tensor {TIMESTEPS!r}, or an empty one")
    check_tables(tensors)
    check_settings(module, config.get("settings", {}))
    argument = blueprint.time_argument
    clock = Clock(tensors[TIMESTEPS], argument.position, argument.name)
    clock.frozen = bool(config.get("frozen", False))
    with damage_of(folder):
        clock.conditions = stored_conditions(config.get("conditions", ()), tensors)
        install_transforms(module, blueprint.transforms)
        entries = _in_module_order(module, config.get("stand_ins", {}))
        install_replacements(module, stored_replacements(entries, tensors, clock))
        install_layers(module, config["layers"])
        install_attention(module, blueprint.attention)
        if config.get("layout", layout(module)) != layout(module):
            raise FormatError(f"{folder}: the denoiser's tensors differ in name or shape from those stored here")
        _check_groups(module)
        module._apply(lambda tensor: torch.empty_like(tensor, device="cpu") if tensor.is_meta else tensor)
        layers = _in_module_order(module, config["layers"])
        unpack_into(module, {**config, "layers": layers}, tensors, clock)
    # Last, since the errors of all other checks say more.
    check_digest(config, tensors)
    clock.attach(module)
    return clock


def _check_groups(module: nn.Module) -> None:
    """Raise FormatError for a GroupNorm of no groups: torch builds one of a negative number, kernels never end."""
    for name, part in module.named_modules():
        if isinstance(part, nn.GroupNorm) and part.num_groups < 1:
            raise FormatError(f"the configuration gives {name!r} {part.num_groups} groups: 1 or more are needed")


def _in_module_order(module: nn.Module, entries: dict[str, Any]) -> dict[str, Any]:
    """Entries as long vectors have them: diffusers sorts a config's keys when it saves."""
    place = {name: i for i, (name, _) in enumerate(module.named_modules())}
    return dict(sorted(entries.items(), key=lambda entry: place[entry[0]]))


def read_tensors(folder: Path) -> dict[str, Tensor]:
    """All tensors of a component, from one file or from the shards that an index names.

    Raises:
        FormatError: a file is missing or damaged.
    """
    tensors: dict[str, Tensor] = {}
    for path in weight_files(folder):
        try:
            tensors |= load_file(regular(path))
        except (OSError, SafetensorError) as error:
            raise FormatError(f"{path} cannot be read: {str(error).splitlines()[0]}") from None
    return tensors


def weight_files(folder: Path) -> list[Path]:
    """The files that hold a component's tensors.

    Raises:
        FormatError: the index of sharded weights cannot be read.
    """
    index = folder / INDEX
    if not index.exists():
        return [folder / WEIGHTS]
    entries = read_json(index, "is no index of weight files").get("weight_map")
    if not isinstance(entries, dict) or not all(isinstance(name, str) and name for name in entries.values()):
        raise FormatError(f"{index} is no index of weight files: its weight_map must name a file for every tensor")
    if any(Path(name).name != name for name in entries.values()):
        raise FormatError(f"{index} names a file outside of its folder")
    return [folder / name for name in sorted({*entries.values()})]


@contextmanager
def damage_of(folder: Path | str) -> Iterator[None]:
    """Turn errors that a damaged config causes into one FormatError of one line that names the file."""
    try:
        yield
    except (InputError, LookupError, TypeError, ValueError, ArithmeticError, AttributeError, RuntimeError) as error:
        what = (str(error).splitlines() or [""])[0]
        path = Path(folder) / "config.json"
        raise FormatError(f"{path}: its quantization_config is damaged: {type(error).__name__}: {what}") from error


def read_correction(folder: Path, blueprint: Blueprint, clock: Clock) -> CorrectionTables | None:
    """The correction that the component's recipe names; None for a recipe without one.

    Raises:
        FormatError: its statistics are missing, or do not fit the clock.
    """
    tensors: dict[str, Tensor] = {}
    for path in weight_files(folder) if blueprint.recipe.correction else ():
        with safe_open(regular(path), "pt") as file:
            names = (name for name in file.keys() if name.startswith(CORRECTION))  # noqa: SIM118
            tensors |= {name: file.get_tensor(name) for name in names}
    return correction_of(blueprint, tensors, clock, folder)


def correction_of(
    blueprint: Blueprint, tensors: dict[str, Tensor], clock: Clock, folder: Path | str
) -> CorrectionTables | None:
    """:func:`read_correction` of tensors that were read already."""
    correction = blueprint.recipe.correction
    if correction is None or correction.kind == "none":
        return None
    stored = {name: tensor for name, tensor in tensors.items() if name.startswith(CORRECTION)}
    try:
        return CorrectionTables.from_tensors(stored, len(clock))
    except FormatError as error:
        raise FormatError(f"{folder}: {error}") from None


def read_config(folder: Path) -> dict[str, Any]:
    """The component's config.

    Raises:
        FormatError: missing, unreadable, or without a ``quantization_config``.
    """
    config = read_json(folder / "config.json")
    if not isinstance(config.get("quantization_config"), dict):
        raise FormatError(f"{folder} holds a denoiser that is not quantized: its config has no quantization_config")
    return config
