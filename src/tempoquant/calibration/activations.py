"""Intervals of image-dependent activations, from one pass over the recording, time step by time step."""

from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn

from tempoquant.calibration.observe import observed, product_sites
from tempoquant.calibration.range_observer import VALUES, RangeObserver
from tempoquant.graph import Category
from tempoquant.intervals import Clock, ConstantInterval, GroupInterval, IntervalProvider, TableInterval, group_of
from tempoquant.layers import AttentionProducts, QuantizedLayer, numbered_products, operand_name
from tempoquant.planning import LayerPlan
from tempoquant.progress import Progress
from tempoquant.recipe import FLOAT_BITS, Activations, Recipe
from tempoquant.recording import Store, range_rows

BATCH = 16


def calibrate_activations(
    run: Callable[..., Tensor],
    store: Store,
    clock: Clock,
    layers: Mapping[str, QuantizedLayer],
    plans: Mapping[str, LayerPlan],
    attention: Mapping[str, AttentionProducts],
    recipe: Recipe,
    train_timesteps: int,
    progress: Progress,
) -> None:
    """Give layers and attention products their intervals.

    Args:
        run: ``run(sample, timestep, **conditioning)``, the denoiser with its weights already quantized.
        store: the recording; the rows of ``recipe.calibration`` are read.
        layers: those to calibrate, by name. plans: their activation bits, and what they depend on.
        attention: products to quantize, by owner; the operands get the recipe's activation bits and softmax bits.
        train_timesteps: length of the training schedule, which groups divide.
    """
    chosen = {name: layer for name, layer in layers.items() if plans[name].activation_bits != FLOAT_BITS}
    sites = [*chosen, *(product_sites(attention) if recipe.attention.quantize else [])]
    observers = {site: RangeObserver((recipe.seed, "spread", site), always_zero=site.endswith(":p")) for site in sites}
    _observe(run, store, clock, chosen, attention, observers, recipe, progress)

    def interval(site: str, width: int, steps: str = recipe.activations.steps) -> IntervalProvider:
        return _provider(observers[site], width, recipe.activations, steps, clock, train_timesteps)

    for name, layer in chosen.items():
        # What never changes has no batch that could be told its time steps.
        steps = "constant" if plans[name].category is Category.CONSTANT else recipe.activations.steps
        layer.input_interval = interval(name, plans[name].activation_bits, steps)
    if recipe.attention.quantize and recipe.activations.bits != FLOAT_BITS:
        widths = dict.fromkeys("qkv", recipe.activations.bits) | {"p": recipe.attention.softmax_bits}
        for owner, index, product in numbered_products(attention):
            named = {operand: operand_name(owner, index, operand) for operand in widths}
            product.intervals = nn.ModuleDict({o: interval(name, widths[o]) for o, name in named.items()})


def _provider(
    spread: RangeObserver, bits: int, how: Activations, steps: str, clock: Clock, train_timesteps: int
) -> IntervalProvider:
    """One interval a row, one a group, or one: what a generator starts from is one."""
    groups, count = [0] * len(clock), 1
    if steps == "per-step":
        groups, count = list(range(len(clock))), len(clock)
    elif steps == "groups":
        groups, count = group_of(clock.timesteps, how.groups, train_timesteps).tolist(), how.groups
    qparams = spread.qparams(bits, how.range, groups, count, how.symmetric)
    if steps == "per-step":
        return TableInterval(qparams, bits, clock)
    if steps == "groups":
        return GroupInterval(qparams, bits, clock, train_timesteps)
    return ConstantInterval(qparams, bits)


def _observe(
    run: Callable[..., Tensor],
    store: Store,
    clock: Clock,
    layers: Mapping[str, QuantizedLayer],
    attention: Mapping[str, AttentionProducts],
    observers: Mapping[str, RangeObserver],
    recipe: Recipe,
    progress: Progress,
) -> None:
    usual = min(recipe.calibration.rows_per_step, store.samples, BATCH)
    rows = list(range_rows(store, clock, recipe))
    with progress.stage("activation ranges", len(rows)) as advance:
        for row, step, samples in rows:
            for part in samples.split(BATCH):
                values = VALUES * part.numel() // usual
                _see_row(run, store, step, part, layers, attention, observers, row, values)
            advance(1)


def _see_row(
    run: Callable[..., Tensor],
    store: Store,
    step: int,
    samples: Tensor,
    layers: Mapping[str, QuantizedLayer],
    attention: Mapping[str, AttentionProducts],
    observers: Mapping[str, RangeObserver],
    row: int,
    values: int,
) -> None:
    def see(site: str, x: Tensor) -> None:
        if site in observers:
            observers[site].see(row, x, samples.numel(), values)

    sample, timestep, conditioning = store.read(torch.full_like(samples, step), samples)
    with observed(layers, attention, see), torch.no_grad():
        run(sample, timestep, **conditioning)
