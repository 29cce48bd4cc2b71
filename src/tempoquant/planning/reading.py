"""A denoiser as a recipe quantizes it: its graph, split where the recipe splits, and what happens to each layer."""

from collections.abc import Mapping
from dataclasses import dataclass

from tempoquant.graph import AttentionProduct, DenoiserGraph, Probe, read_denoiser
from tempoquant.planning.plan import LayerPlan, plan_layers, settled
from tempoquant.planning.split import shortcut_splits, split_graph, split_plans
from tempoquant.recipe import Recipe


@dataclass(frozen=True)
class Reading:
    """What was read.

    Attributes:
        recipe: what is done to it, decided. original: the denoiser as it is.
        splits: layers quantized as two, and where. graph: with their parts.
        products: attention products that are quantized.
    """

    recipe: Recipe
    original: DenoiserGraph
    splits: Mapping[str, int]
    graph: DenoiserGraph
    products: tuple[AttentionProduct, ...]

    def plans(self, recipe: Recipe) -> dict[str, LayerPlan]:
        """What happens to every layer; policies name layers as they are in the original."""
        return split_plans(plan_layers(self.original, recipe), self.splits)


def read(probe: Probe, recipe: Recipe) -> Reading:
    """Read ``probe``'s denoiser for ``recipe``.

    Raises:
        InputError: the recipe does not fit the denoiser.
    """
    graph = read_denoiser(probe)
    recipe = settled(graph, recipe)
    plans = plan_layers(graph, recipe)
    splits = shortcut_splits(probe.module, graph, plans) if recipe.weights.split_shortcuts else {}
    products = graph.attention if recipe.attention.quantize else ()
    return Reading(recipe, graph, splits, split_graph(graph, splits), products)
