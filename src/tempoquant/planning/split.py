"""Which layers are quantized as two, and the graph and plans in which their parts stand for them."""

from collections.abc import Mapping
from dataclasses import replace

from torch import nn

from tempoquant.graph import DenoiserGraph, LayerInfo
from tempoquant.planning.plan import LayerPlan
from tempoquant.recipe import FLOAT_BITS
from tempoquant.transforms import PARTS


def shortcut_splits(module: nn.Module, graph: DenoiserGraph, plans: Mapping[str, LayerPlan]) -> dict[str, int]:
    """Channels of the first part of every layer to split (Q-Diffusion, ICCV 2023, section 4.2).

    These are the layers whose input is itself the concatenation of two image-dependent tensors: in UNets with residual
    blocks their shortcuts behind skip connections. One that stays float is not split, nor one of channel groups.
    """
    modules = dict(module.named_modules())
    return {
        name: split
        for name, split in graph.splits.items()
        if (plans[name].weight_bits, plans[name].activation_bits) != (FLOAT_BITS, FLOAT_BITS)
        and getattr(modules[name], "groups", 1) == 1
    }


def split_graph(graph: DenoiserGraph, splits: Mapping[str, int]) -> DenoiserGraph:
    """``graph`` with both parts, ``<layer>.first`` and ``<layer>.second``, in the place of every split layer."""
    layers = [part for layer in graph.layers for part in _parts(layer, splits)]
    units = (
        replace(unit, layers=tuple(name for layer in unit.layers for name in part_names(layer, splits)))
        for unit in graph.units
    )
    return replace(
        graph,
        layers=tuple(replace(layer, order=order) for order, layer in enumerate(layers)),
        units=tuple(units),
        splits={name: split for name, split in graph.splits.items() if name not in splits},
    )


def split_plans(plans: Mapping[str, LayerPlan], splits: Mapping[str, int]) -> dict[str, LayerPlan]:
    """``plans`` with a split layer's plan for each of its parts, so that policies name the layer itself."""
    return {part: replace(plan, name=part) for name, plan in plans.items() for part in part_names(name, splits)}


def part_names(name: str, splits: Mapping[str, int]) -> tuple[str, ...]:
    """The layer itself, or its two parts."""
    return tuple(f"{name}.{part}" for part in PARTS) if name in splits else (name,)


def _parts(layer: LayerInfo, splits: Mapping[str, int]) -> list[LayerInfo]:
    if layer.name not in splits:
        return [layer]
    channels_out, channels_in, *kernel = layer.shape
    widths = (splits[layer.name], channels_in - splits[layer.name])
    names = part_names(layer.name, splits)
    return [replace(layer, name=n, shape=(channels_out, w, *kernel)) for n, w in zip(names, widths, strict=True)]
