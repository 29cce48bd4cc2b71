"""Reading a checkpoint's tensors without running anything that it holds."""

import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from tempoquant.errors import FormatError

UNET = "model.diffusion_model."
AVERAGED = "model_ema."


class _Inert:
    """Stands for a training library's class that checkpoints name beside their tensors, and does nothing."""


HARMLESS = "pytorch_lightning.callbacks.model_checkpoint.ModelCheckpoint"
"""Every checkpoint of the latent diffusion code names this class as the key of its training state."""


def read_tensors(path: Path) -> dict[str, Tensor]:
    """All tensors of a ``.safetensors`` or ``.ckpt`` file by name, averaged ("EMA") ones in the place of the others.

    Raises:
        FormatError: damaged, holds no tensors by name, or is a pickle that would run code.
    """
    found = _safetensors(path) if path.suffix == ".safetensors" else _unpickled(path)
    tensors = {name.removeprefix("module."): value for name, value in found.items() if isinstance(value, Tensor)}
    if not tensors:
        raise FormatError(f"{path} holds no tensors by name")
    return averaged(tensors)


def averaged(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors with the UNet's running averages in the place of its last values, where there are any.

    The averages' names lack the dots of those that they stand for.
    """
    short = {UNET + name: AVERAGED + f"diffusion_model{name.replace('.', '')}" for name in _of(tensors, UNET)}
    kept = {name: value for name, value in tensors.items() if not name.startswith(AVERAGED)}
    return {name: tensors.get(short.get(name, ""), value) for name, value in kept.items()}


def _of(tensors: Mapping[str, Tensor], prefix: str) -> list[str]:
    return [name.removeprefix(prefix) for name in tensors if name.startswith(prefix)]


def _safetensors(path: Path) -> dict[str, Any]:
    try:
        return load_file(path)
    except (OSError, SafetensorError) as error:
        raise FormatError(f"{path} cannot be read: {str(error).splitlines()[0]}") from None


def _unpickled(path: Path) -> dict[str, Any]:
    try:
        with torch.serialization.safe_globals([(_Inert, HARMLESS)]):
            found = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise FormatError(
            f"{path} holds more than tensors, which is not read because it can run code: save its state dict as "
            f"safetensors where you trust it ({_reason(error)})"
        ) from None
    except (OSError, RuntimeError, EOFError) as error:
        raise FormatError(f"{path} cannot be read: {(str(error) or type(error).__name__).splitlines()[0]}") from None
    found = found.get("state_dict", found) if isinstance(found, Mapping) else None
    if not isinstance(found, Mapping):
        raise FormatError(f"{path} holds no tensors by name")
    return dict(found)


def _reason(error: Exception) -> str:
    """The part of torch's long message that names what is not allowed."""
    lines = [line.strip() for line in str(error).splitlines() if "GLOBAL" in line or "Unsupported" in line]
    return (lines or str(error).splitlines() or ["no reason given"])[0][:120]
