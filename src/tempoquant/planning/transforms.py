"""Which layers are transformed, and the graph and plans in which their parts stand for them."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace

from torch import nn

from tempoquant.errors import InputError
from tempoquant.graph import DenoiserGraph, LayerInfo
from tempoquant.planning.plan import LayerPlan, layer_roles
from tempoquant.recipe import Recipe, Rotation
from tempoquant.transforms import LayerTransform, Rotate, Split, is_transformable


def layer_transforms(
    module: nn.Module, graph: DenoiserGraph, plans: Mapping[str, LayerPlan], recipe: Recipe
) -> tuple[LayerTransform, ...]:
    """The transforms that ``recipe`` asks for, in the order in which they are installed.

    Layers that stay float, temporal layers and those that no transform can replace stay as they are.

    Args:
        module: the denoiser.
        graph: what was read of it.
        plans: of its layers, by name.
        recipe: whose split shortcuts and rotations these are.

    Raises:
        InputError: a rotation's pattern matches no layer, or none whose channels its group divides.
    """
    modules = dict(module.named_modules())
    free = [
        name
        for name, plan in plans.items()
        if not plan.in_float and not plan.temporal and is_transformable(modules[name])
    ]
    # Layers behind skip connections (Q-Diffusion, ICCV 2023, section 4.2): a grid for each of their two inputs.
    split = [name for name in free if recipe.weights.split_shortcuts and name in graph.splits]
    splits = tuple(LayerTransform(name, Split(graph.splits[name])) for name in split)
    return splits + tuple(_rotations(transformed_graph(graph, splits), graph, splits, free, recipe))


def _rotations(
    parts: DenoiserGraph,
    graph: DenoiserGraph,
    splits: Sequence[LayerTransform],
    free: Sequence[str],
    recipe: Recipe,
) -> Iterator[LayerTransform]:
    """Rotations of layers and of the parts of split ones; the last rule that matches a layer decides."""
    roles, channels = layer_roles(graph), {layer.name: layer.channels for layer in parts.layers}
    groups: dict[str, int] = {}
    for rule in recipe.transforms:
        matched = [name for name in roles if rule.matches(name, roles[name])]
        names = [part for name in matched if name in free for part in part_names(name, splits)]
        fitting = {name: rule.group for name in names if channels[name] % rule.group == 0}
        _check(rule, matched, fitting)
        groups |= fitting
    return (LayerTransform(name, Rotate(groups[name])) for name in channels if name in groups)


def _check(rule: Rotation, matched: Sequence[str], fitting: Mapping[str, int]) -> None:
    where = f"transforms: rotate {rule.match!r}"
    if not matched and not rule.is_role:
        raise InputError(f"{where} matches no layer of this denoiser")
    if matched and not fitting:
        raise InputError(f"{where}: no quantized image layer that it matches has a multiple of {rule.group} channels")


def transformed_graph(graph: DenoiserGraph, transforms: Sequence[LayerTransform]) -> DenoiserGraph:
    """``graph`` with the parts of every transformed layer in its place, in order."""
    for transform in transforms:
        graph = _with_parts(graph, transform)
    return graph


def transformed_plans(plans: Mapping[str, LayerPlan], transforms: Sequence[LayerTransform]) -> dict[str, LayerPlan]:
    """``plans`` with a transformed layer's plan for each of its parts, so that policies name the layer itself."""
    return {part: replace(plan, name=part) for name, plan in plans.items() for part in part_names(name, transforms)}


def part_names(name: str, transforms: Sequence[LayerTransform]) -> tuple[str, ...]:
    """What the layer ``name`` has become: itself, its parts, or their parts."""
    names: tuple[str, ...] = (name,)
    for layer, transform in transforms:
        names = tuple(part for n in names for part in (transform.part_names(n) if n == layer else (n,)))
    return names


def _with_parts(graph: DenoiserGraph, transform: LayerTransform) -> DenoiserGraph:
    layers = [part for layer in graph.layers for part in _parts(layer, transform)]
    units = (
        replace(unit, layers=tuple(part for layer in unit.layers for part in part_names(layer, [transform])))
        for unit in graph.units
    )
    return replace(
        graph,
        layers=tuple(replace(layer, order=order) for order, layer in enumerate(layers)),
        units=tuple(units),
        splits={name: split for name, split in graph.splits.items() if name != transform.layer},
    )


def _parts(layer: LayerInfo, transform: LayerTransform) -> list[LayerInfo]:
    if layer.name != transform.layer:
        return [layer]
    names, shapes = transform.transform.part_names(layer.name), transform.transform.part_shapes(layer.shape)
    return [replace(layer, name=n, shape=shape, channels=shape[1]) for n, shape in zip(names, shapes, strict=True)]
