"""Quantization parameters of activations, from one pass over the recording, time step by time step."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from tempoquant.calibration.observe import observed
from tempoquant.calibration.range_observer import VALUES, RangeObserver
from tempoquant.calibration.token_observer import TokenObserver
from tempoquant.graph import Category
from tempoquant.intervals import Clock, IntervalProvider, ObservedActivation, calibrated_provider
from tempoquant.layers import OPERANDS, AttentionProducts, QuantizedLayer, numbered_products, operand_name
from tempoquant.numerics import Constant, PerToken, QuantSpec
from tempoquant.planning import LayerPlan
from tempoquant.progress import Progress
from tempoquant.recipe import FLOAT_BITS, Recipe
from tempoquant.recording import Store, range_rows

BATCH = 16
Observer = RangeObserver | TokenObserver


@dataclass(frozen=True)
class RecordedInputs:
    """What activations are observed on.

    Attributes:
        run: ``run(sample, timestep, **conditioning)``, the denoiser with its weights already quantized.
        store: the recording; the rows of ``recipe.calibration`` are read.
        clock: of the denoiser.
        recipe: how activations are quantized.
        train_timesteps: T, the length of the training schedule.
        progress: shows how far the pass is.
    """

    run: Callable[..., Tensor]
    store: Store
    clock: Clock
    recipe: Recipe
    train_timesteps: int
    progress: Progress


def calibrate_activations(
    inputs: RecordedInputs,
    layers: Mapping[str, QuantizedLayer],
    plans: Mapping[str, LayerPlan],
    attention: Mapping[str, AttentionProducts],
) -> None:
    """Give layers and attention products the providers of their inputs' quantization parameters.

    Args:
        inputs: what they are observed on.
        layers: those to calibrate, by name.
        plans: their activation bits, and what they depend on.
        attention: products to quantize, by owner; operands get the recipe's activation bits and softmax bits.
    """
    recipe = inputs.recipe
    chosen = {name: layer for name, layer in layers.items() if plans[name].activation_bits != FLOAT_BITS}
    specs = {name: layer_spec(recipe, layer, plans[name]) for name, layer in chosen.items()}
    owners = attention if recipe.attention.quantize and recipe.activations.bits != FLOAT_BITS else {}
    for owner, index, _ in numbered_products(owners):
        specs |= {operand_name(owner, index, operand): operand_spec(recipe, operand) for operand in OPERANDS}
    observers = {site: _observer(recipe, site, spec) for site, spec in specs.items() if not spec.dynamic}
    if observers:
        _observe(inputs, chosen, attention, observers)

    def provider(site: str) -> IntervalProvider:
        spec = specs[site]

        def qparams(groups: Any, count: int) -> Any:
            return observers[site].qparams(spec.bits, recipe.activations.range, groups, count, spec.symmetric)

        return calibrated_provider(ObservedActivation(spec, inputs.clock, inputs.train_timesteps, qparams))

    for name, layer in chosen.items():
        layer.input_interval = provider(name)
    for owner, index, product in numbered_products(owners):
        named = {operand: operand_name(owner, index, operand) for operand in OPERANDS}
        product.intervals = nn.ModuleDict({operand: provider(name) for operand, name in named.items()})


def layer_spec(recipe: Recipe, layer: QuantizedLayer, plan: LayerPlan) -> QuantSpec:
    """What quantizes a layer's input: per token only where the weight multiplies vectors along its last axis."""
    spec = recipe.activations.spec(plan.activation_bits, tokens=layer.kind.channel_axis == -1)
    # What never changes has no batch that could be told its time steps.
    return replace(spec, schedule=Constant()) if plan.category is Category.CONSTANT else spec


def operand_spec(recipe: Recipe, operand: str) -> QuantSpec:
    """What quantizes "q", "k", "v" or "p", the softmax output, which starts at zero.

    Dynamic scales may be those of tokens, but for v: its tokens are what the product sums over. Stored ones are not:
    attention runs in pieces of the tokens.
    """
    how = recipe.activations
    bits = recipe.attention.softmax_bits if operand == "p" else how.bits
    spec = how.spec(bits, tokens=how.dynamic and operand != "v")
    return replace(spec, symmetric=spec.symmetric and operand != "p")


def _observer(recipe: Recipe, site: str, spec: QuantSpec) -> Observer:
    if spec.granularity == PerToken():
        return TokenObserver(site)
    return RangeObserver((recipe.seed, "spread", site), always_zero=site.endswith(":p"))


def _observe(
    inputs: RecordedInputs,
    layers: Mapping[str, QuantizedLayer],
    attention: Mapping[str, AttentionProducts],
    observers: Mapping[str, Observer],
) -> None:
    """Run the denoiser on recorded inputs of every row, and show each quantizer's input to its observer."""
    store, recipe = inputs.store, inputs.recipe
    usual = min(recipe.calibration.rows_per_step, store.samples, BATCH)
    rows = list(range_rows(store, inputs.clock, recipe))
    with inputs.progress.stage("activation ranges", len(rows)) as advance:
        for row, step, samples in rows:
            for part in samples.split(BATCH):
                record = partial(_record, observers, row, part.numel(), VALUES * part.numel() // usual)
                sample, timestep, conditioning = store.read(torch.full_like(part, step), part)
                with observed(layers, attention, record), torch.no_grad():
                    inputs.run(sample, timestep, **conditioning)
            advance(1)


def _record(observers: Mapping[str, Observer], row: int, samples: int, values: int, site: str, x: Tensor) -> None:
    if site in observers:
        observers[site].observe(row, x, samples, values)
