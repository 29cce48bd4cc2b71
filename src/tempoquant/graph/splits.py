"""Where a layer's input is a concatenation: the channel where the skip connection begins (Q-Diffusion, ICCV 2023)."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from tempoquant.graph.nested import first_argument
from tempoquant.graph.probing import fingerprint, quantizable_layers, removing
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
    known: dict[bytes, Joined] = {}
    found: dict[str, Joined] = {}

    def see(func: Any, args: tuple, kwargs: dict, out: Any, frame: Frame) -> None:
        if func in CONCATENATIONS:
            parts: Any = args[0] if args else kwargs["tensors"]
            axis = kwargs.get("dim", kwargs.get("axis", args[1] if len(args) > 1 else 0)) % out.dim()
            if len(parts) == 2:
                prints = fingerprint(parts[0]), fingerprint(parts[1])
                known[fingerprint(out)] = Joined(axis, parts[0].shape[axis], prints)

    def looking(name: str, kind: str) -> Any:
        def look(module: nn.Module, args: tuple, kwargs: dict) -> None:
            x: Tensor = first_argument(args, kwargs)
            joined = known.get(fingerprint(x))
            if joined is not None and joined.axis == (1 if kind == "conv2d" else x.dim() - 1):
                found[name] = joined

        return look

    modules = quantizable_layers(probe.module)
    image = [layer for layer in layers if layer.category is Category.IMAGE]
    hooks = [modules[la.name].register_forward_pre_hook(looking(la.name, la.kind), with_kwargs=True) for la in image]
    with removing(hooks):
        watch_forward(probe, see, variant)
    return found
