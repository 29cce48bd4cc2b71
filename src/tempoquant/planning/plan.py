"""What happens to every layer, decided once from the recipe and the graph."""

from collections.abc import Mapping
from dataclasses import dataclass, replace

from tempoquant.errors import InputError
from tempoquant.graph import KINDS, Category, DenoiserGraph
from tempoquant.numerics import grid
from tempoquant.recipe import FLOAT_BITS, Recipe

NAMED = 3


@dataclass(frozen=True)
class LayerPlan:
    """What happens to one layer.

    Attributes:
        name: of the layer.
        category: what its input depends on.
        weight_bits: width of the weight; 32 is float.
        activation_bits: width of the input; 32 is float.
        symmetric: the weight's zero points are in the middle of the grid.
        group_size: input channels that share a scale of the weight; None: all, one scale an output channel.
    """

    name: str
    category: Category
    weight_bits: int
    activation_bits: int
    symmetric: bool
    group_size: int | None = None

    @property
    def in_float(self) -> bool:
        """Whether neither weight nor input is quantized."""
        return self.weight_bits == self.activation_bits == FLOAT_BITS

    @property
    def temporal(self) -> bool:
        """Whether the layer sees the time step (and perhaps conditioning) but never the sample."""
        return self.category.is_temporal


def plan_layers(graph: DenoiserGraph, recipe: Recipe) -> dict[str, LayerPlan]:
    """Every layer's plan in execution order.

    Raises:
        InputError: a pattern of the recipe's policy matches no layer, temporal features that cannot be cached are to
            be, or no layer that sees the sample is quantized by a recipe that is not float itself.
    """
    check_cache(graph, recipe)
    roles = layer_roles(graph)
    names = {**roles, **dict.fromkeys(graph.lookups, frozenset[str]())}
    for override in recipe.policy:
        if not override.is_role and not any(override.matches(name, found) for name, found in names.items()):
            raise InputError(f"policy pattern {override.match!r} matches no layer of this denoiser")
    plans = {}
    for layer in graph.layers:
        weight_bits, activation_bits = recipe.bits_of(layer.name, roles[layer.name])
        if layer.category.is_temporal and recipe.temporal.never_runs:
            weight_bits = activation_bits = FLOAT_BITS
        for bits in (weight_bits, activation_bits):
            if bits != FLOAT_BITS:
                grid(bits)
        symmetric = recipe.symmetric(weight_bits)
        plans[layer.name] = LayerPlan(layer.name, layer.category, weight_bits, activation_bits, symmetric)
    _check_image_layers(graph, recipe, plans)
    return plans | _lookup_plans(graph, recipe)


def _lookup_plans(graph: DenoiserGraph, recipe: Recipe) -> dict[str, LayerPlan]:
    """Plans of the layers that are given indices, where the policy gives their weight bits; others stay float."""
    plans, overrides = {}, [override for override in recipe.policy if override.weight_bits is not None]
    for name in graph.lookups:
        bits, _ = recipe.bits_of(name)
        if bits != FLOAT_BITS and any(override.matches(name, frozenset()) for override in overrides):
            plans[name] = LayerPlan(name, Category.CONDITION, bits, FLOAT_BITS, recipe.symmetric(bits))
    return plans


def quantized_names(plans: Mapping[str, LayerPlan]) -> list[str]:
    """Names of the layers whose weight or input is quantized, in the order of ``plans``."""
    return [name for name, plan in plans.items() if not plan.in_float]


def grouped_plans(plans: Mapping[str, LayerPlan], graph: DenoiserGraph, recipe: Recipe) -> dict[str, LayerPlan]:
    """``plans`` with the recipe's groups of weights, in layers that have several of them.

    Args:
        plans: of the layers of ``graph``, by name.
        graph: with the parts of transformed layers in their place.
        recipe: whose ``weights.group_size`` is applied.
    """
    size, channels = recipe.weights.group_size, _input_channels(graph)
    if size is None:
        return dict(plans)
    several = {name for name in plans if channels[name] % size == 0 and channels[name] > size}
    return {name: replace(plan, group_size=size) if name in several else plan for name, plan in plans.items()}


def ungrouped(plans: Mapping[str, LayerPlan], graph: DenoiserGraph, recipe: Recipe) -> tuple[str, ...]:
    """Layers with a quantized weight that keep one scale a channel: the group size does not divide their inputs."""
    size, channels = recipe.weights.group_size, _input_channels(graph)
    if size is None:
        return ()
    return tuple(name for name, p in plans.items() if p.weight_bits != FLOAT_BITS and channels[name] % size)


def without_tokens(plans: Mapping[str, LayerPlan], graph: DenoiserGraph, recipe: Recipe) -> tuple[str, ...]:
    """Layers whose input keeps one scale where the recipe says per token: its last axis is not that of the channels."""
    if recipe.activations.granularity != "per-token":
        return ()
    channels_last = {kind.name for kind in KINDS.values() if kind.channel_axis == -1}
    others = {layer.name for layer in graph.layers if layer.kind not in channels_last}
    return tuple(name for name, p in plans.items() if p.activation_bits != FLOAT_BITS and name in others)


def _input_channels(graph: DenoiserGraph) -> dict[str, int]:
    """Input channels that one output channel sees, by layer; of a look-up, the length of a row."""
    return {layer.name: layer.channels for layer in graph.layers} | graph.lookups


def _check_image_layers(graph: DenoiserGraph, recipe: Recipe, plans: Mapping[str, LayerPlan]) -> None:
    image = [plan for plan in plans.values() if plan.category is Category.IMAGE]
    in_float = all(plan.in_float for plan in image)
    if in_float and (recipe.weights.bits, recipe.activations.bits) != (FLOAT_BITS, FLOAT_BITS):
        others = ", ".join(f"{name} ({kind})" for name, kind in list(graph.unsupported.items())[:NAMED])
        why = "its policy keeps all in float" if image else f"layers of other kinds stay float: {others}"
        raise InputError(
            f"{recipe.name} quantizes no layer of this denoiser that sees the sample"
            + (f": {why}" if image or others else ": none of its layers does")
        )


def check_cache(graph: DenoiserGraph, recipe: Recipe) -> None:
    """Raise InputError if features are to be cached that follow more than the time step."""
    name = _conditioned(graph)
    if recipe.temporal.cache is not None and name is not None:
        raise InputError(
            f"temporal.cache = {recipe.temporal.cache!r}: the features of this denoiser follow the time step and "
            f"the condition ({name!r} sees both), so none can be stored a time step: use tfmq-dm"
        )


def settled(graph: DenoiserGraph, recipe: Recipe) -> Recipe:
    """The recipe with what it leaves to the denoiser decided: whether features are cached."""
    if recipe.temporal.cache_choice != "time-alone" or _conditioned(graph) is None:
        return recipe
    return recipe.model_copy(update={"temporal": recipe.temporal.model_copy(update={"cache": None})})


def _conditioned(graph: DenoiserGraph) -> str | None:
    """The first layer that sees the time step and a condition, if any."""
    return next((layer.name for layer in graph.layers if layer.category is Category.TEMPORAL_CONDITION), None)


def layer_roles(graph: DenoiserGraph) -> dict[str, frozenset[str]]:
    """The roles that policies name: @first, @second, @last, @shortcut, @strided image layers; @temporal, @shared[i]."""
    roles: dict[str, set[str]] = {layer.name: set() for layer in graph.layers}
    image = [layer for layer in graph.layers if layer.category is Category.IMAGE]
    for role, position in (("@first", 0), ("@second", 1), ("@last", -1)):
        if len(image) > 1:
            roles[image[position].name].add(role)
    for i, name in enumerate(graph.shared):
        roles[name].add(f"@shared[{i}]")
    for layer in graph.layers:
        if layer.category.is_temporal:
            roles[layer.name].add("@temporal")
    for layer in image:
        if layer.strided:
            roles[layer.name].add("@strided")
        if any(word in layer.name.rpartition(".")[2] for word in ("shortcut", "skip")):
            roles[layer.name].add("@shortcut")
    return {name: frozenset(found) for name, found in roles.items()}
