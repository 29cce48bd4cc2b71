"""Half precision ends where quantization begins: what is measured and learned is computed in float32."""

import copy
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from tempoquant.pipelines.diffusers_model import DiffusersModel
from tempoquant.pipelines.model import BareModel, Model


def in_float32(model: Model) -> Model:
    """``model`` with every network in float32: itself if they are, else around copies. The original stays as it is.

    A pipeline's other networks go with its denoiser, because they hand tensors to each other in one type.
    """
    if isinstance(model, BareModel):
        denoiser = model.denoiser
        return replace(model, denoiser=replace(denoiser, module=_float32(denoiser.module)))
    assert isinstance(model, DiffusersModel)
    networks = {name: part for name, part in model.pipe.components.items() if isinstance(part, nn.Module)}
    copies = {name: _float32(part) for name, part in networks.items()}
    if all(copies[name] is part for name, part in networks.items()):
        return model
    return model.with_parts(**copies)


def conditioning_in_float32(conditioning: Mapping[str, Any] | None) -> dict[str, Any] | None:
    """Conditioning with its floating tensors, nested ones too, in float32."""
    return None if conditioning is None else {name: _value(value) for name, value in conditioning.items()}


def _value(value: Any) -> Any:
    if isinstance(value, Tensor):
        return value.float() if value.is_floating_point() else value
    return conditioning_in_float32(value) if isinstance(value, Mapping) else value


def _float32(module: nn.Module) -> nn.Module:
    tensors = [*module.parameters(), *module.buffers()]
    if all(t.dtype == torch.float32 for t in tensors if t.is_floating_point()):
        return module
    return copy.deepcopy(module).float()
