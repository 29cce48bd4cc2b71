"""Where a layer's input is a concatenation: the channel at which the skip connection begins (Q-Diffusion, 2.4)."""

from typing import Any

import torch
from torch import Tensor, nn

from tempoquant.graph.observe import quantizable_layers
from tempoquant.graph.types import Category, LayerInfo, Probe
from tempoquant.graph.watch import watch_forward

CONCATENATIONS = (torch.cat, torch.concat, torch.concatenate)
SAME_TENSOR = (torch.Tensor.contiguous, torch.Tensor.to, torch.Tensor.float, torch.Tensor.clone)


def split_points(probe: Probe, layers: tuple[LayerInfo, ...]) -> dict[str, int]:
    """For every image layer whose input is itself the concatenation of two tensors: the first one's channels."""
    found: dict[str, int] = {}
    joined: dict[int, tuple[Tensor, int, int]] = {}
    modules = quantizable_layers(probe.module)
    image = {layer.name: layer.kind for layer in layers if layer.category is Category.IMAGE}

    def see(func: Any, args: tuple, kwargs: dict, out: Any, running: str) -> None:
        if func in CONCATENATIONS:
            parts = args[0] if args else kwargs["tensors"]
            axis = kwargs.get("dim", args[1] if len(args) > 1 else 0) % out.dim()
            if len(parts) == 2:
                joined[id(out)] = (out, axis, parts[0].shape[axis])
        elif func in SAME_TENSOR and isinstance(args[0], Tensor) and id(args[0]) in joined:
            joined[id(out)] = (out, *joined[id(args[0])][1:])

    def hook(name: str, kind: str) -> Any:
        def look(module: nn.Module, args: tuple) -> None:
            tensor, axis, channels = joined.get(id(args[0]), (None, 0, 0))
            if tensor is not None and axis == (1 if kind == "conv2d" else tensor.dim() - 1):
                found[name] = channels

        return look

    handles = [modules[name].register_forward_pre_hook(hook(name, kind)) for name, kind in image.items()]
    try:
        watch_forward(probe, see)
    finally:
        for handle in handles:
            handle.remove()
    return found
