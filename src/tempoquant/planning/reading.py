"""A denoiser as a recipe quantizes it: its graph with transformed layers, and what happens to each layer."""

from dataclasses import dataclass

from tempoquant.graph import AttentionProduct, DenoiserGraph, Probe, read_denoiser
from tempoquant.planning.plan import LayerPlan, grouped_plans, plan_layers, settled
from tempoquant.planning.transforms import layer_transforms, transformed_graph, transformed_plans
from tempoquant.recipe import Recipe
from tempoquant.transforms import LayerTransform


@dataclass(frozen=True)
class Reading:
    """What was read.

    Attributes:
        recipe: what is done to it, decided.
        original: the graph of the denoiser as it is.
        transforms: of layers, in order.
        graph: with the transformed layers' parts.
        products: attention products that are quantized.
    """

    recipe: Recipe
    original: DenoiserGraph
    transforms: tuple[LayerTransform, ...]
    graph: DenoiserGraph
    products: tuple[AttentionProduct, ...]

    def plans(self, recipe: Recipe) -> dict[str, LayerPlan]:
        """What happens to every layer; policies name layers as they are in the original."""
        plans = transformed_plans(plan_layers(self.original, recipe), self.transforms)
        return grouped_plans(plans, self.graph, recipe)


def read(probe: Probe, recipe: Recipe) -> Reading:
    """Read ``probe``'s denoiser for ``recipe``.

    Raises:
        InputError: the recipe does not fit the denoiser.
    """
    graph = read_denoiser(probe)
    recipe = settled(graph, recipe)
    plans = plan_layers(graph, recipe)
    transforms = layer_transforms(probe.module, graph, plans, recipe)
    products = graph.attention if recipe.attention.quantize else ()
    return Reading(recipe, graph, transforms, transformed_graph(graph, transforms), products)
