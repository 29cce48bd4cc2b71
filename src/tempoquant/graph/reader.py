"""Reading a denoiser's structure from example inputs alone."""

from collections.abc import Collection

from torch import nn

from tempoquant.errors import InputError
from tempoquant.graph.attention import attention_products
from tempoquant.graph.kinds import KINDS
from tempoquant.graph.observe import observe_layers
from tempoquant.graph.probing import SEALED, quantizable_layers, sealed_around, smaller
from tempoquant.graph.slicing import split_block
from tempoquant.graph.splits import split_points
from tempoquant.graph.time_argument import time_argument
from tempoquant.graph.trace import trace_forward
from tempoquant.graph.types import DenoiserGraph, Probe
from tempoquant.graph.units import reconstruction_units

RECURRENT = (nn.RNNBase, nn.RNNCellBase)
WITHOUT_KIND = (nn.ConvTranspose3d, *RECURRENT, nn.Bilinear, nn.EmbeddingBag, *SEALED)
"""Classes of layers with weights that have no kind."""


def read_denoiser(probe: Probe) -> DenoiserGraph:
    """Find a denoiser's layers, their categories, temporal block, units and attention products by running it.

    The denoiser is left unchanged.

    Raises:
        InputError: fewer than two time steps, nothing in the denoiser depends on them alone, or its module is not
            given them.
        NumericsError: the denoiser returned NaN or infinity.
    """
    count = len(set(probe.timesteps))
    if count < 2:
        raise InputError(f"{count} distinct time step{'s' * (count != 1)}: at least 2 are needed to read a denoiser")
    probe = smaller(probe)
    observed = observe_layers(probe)
    temporal = {la.name: probe.module.get_submodule(la.name) for la in observed.layers if la.category.is_temporal}
    shared, projections = split_block(trace_forward(probe, temporal, probe.timesteps[0]).ops, tuple(temporal))
    attention, unreached = attention_products(probe)
    return DenoiserGraph(
        layers=observed.layers,
        unused=observed.unused,
        unsupported=_other_layers(probe.module),
        shared=shared,
        projections=projections,
        shared_inputs=observed.shared_inputs,
        units=reconstruction_units(probe.module, observed.layers, observed.called),
        splits=split_points(probe, observed.layers),
        attention=attention,
        unreached=unreached,
        time_argument=time_argument(probe),
        lookups=_lookups(probe.module, observed.called),
    )


def _lookups(module: nn.Module, called: Collection[str]) -> dict[str, int]:
    """Layers whose input is indices, by name, and the length of a row; those that are called."""
    layers = quantizable_layers(module, looks_up=True)
    return {name: layer.get_parameter("weight").shape[1] for name, layer in layers.items() if name in called}


def _other_layers(module: nn.Module) -> dict[str, str]:
    """The class of every layer with weights that cannot be quantized, by name; the outermost of nested ones."""
    stock = quantizable_layers(module) | quantizable_layers(module, looks_up=True)
    classes = (*KINDS, *WITHOUT_KIND)
    others = {n: part for n, part in module.named_modules() if n not in stock and isinstance(part, classes)}
    return {n: type(part).__name__ for n, part in others.items() if sealed_around(module, n) in (None, n)}
