"""Where a layer's input is a concatenation: the channel where the skip connection begins (Q-Diffusion, ICCV 2023)."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from tempoquant.graph.kinds import kind_of
from tempoquant.graph.nested import first_argument
from tempoquant.graph.probing import fingerprint, removing
from tempoquant.graph.types import Category, LayerInfo, Probe
from tempoquant.graph.watch import Frame, watch_forward

CONCATENATIONS = (torch.cat, torch.concat, torch.concatenate)


@dataclass(frozen=True)
class Joined:
    """A concatenation of two tensors: along which axis, the first one's size there, and a hash of each."""

    axis: int
    channels: int
    parts: tuple[bytes, bytes]


def split_points(probe: Probe, layers: tuple[LayerInfo, ...]) -> dict[str, int]:
    """For every image layer whose input is itself the concatenation of two image-dependent tensors: where they meet.

    The concatenation is recognised by its bytes, so it does not matter whether it was copied on the way, and it does
    if it was changed in place. A part that does not follow the sample (a class map, a padding) is not a skip.

    Returns:
        Channels of the first part, by layer.
    """
    first, second = (_joined_inputs(probe, layers, variant) for variant in (0, 1))
    return {
        name: joined.channels
        for name, joined in first.items()
        if name in second and not set(joined.parts) & set(second[name].parts)
    }


def _joined_inputs(probe: Probe, layers: tuple[LayerInfo, ...], variant: int) -> dict[str, Joined]:
    concatenations: dict[bytes, Joined] = {}
    inputs: dict[str, Joined] = {}

    def on_function(func: Any, args: tuple, kwargs: dict, out: Any, frame: Frame) -> None:
        if func in CONCATENATIONS:
            parts: Any = args[0] if args else kwargs["tensors"]
            axis = kwargs.get("dim", kwargs.get("axis", args[1] if len(args) > 1 else 0)) % out.dim()
            if len(parts) == 2:
                prints = fingerprint(parts[0]), fingerprint(parts[1])
                concatenations[fingerprint(out)] = Joined(axis, parts[0].shape[axis], prints)

    def compare_input(name: str, axis: int) -> Any:
        def hook(module: nn.Module, args: tuple, kwargs: dict) -> None:
            x: Tensor = first_argument(args, kwargs)
            joined = concatenations.get(fingerprint(x))
            if joined is not None and joined.axis == x.dim() + axis:
                inputs[name] = joined

        return hook

    image = {layer.name: probe.module.get_submodule(layer.name) for layer in layers if layer.category is Category.IMAGE}
    hooks = [
        layer.register_forward_pre_hook(compare_input(name, kind.channel_axis), with_kwargs=True)
        for name, layer in image.items()
        if (kind := kind_of(layer)) is not None
    ]
    with removing(hooks):
        watch_forward(probe, on_function, variant)
    return inputs
