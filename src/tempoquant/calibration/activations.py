"""Intervals of image-dependent activations, from one pass over the recording, time step by time step."""

from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn

from tempoquant.calibration.observe import observed, product_sites
from tempoquant.calibration.spread import Spread
from tempoquant.calibration.store import Store
from tempoquant.intervals import Clock, ConstantInterval, IntervalProvider, TableInterval
from tempoquant.layers import AttentionProducts, QuantizedLayer
from tempoquant.progress import Progress
from tempoquant.randomness import generator
from tempoquant.recipe import FLOAT_BITS, Recipe


def calibrate_activations(
    run: Callable[..., Tensor],
    store: Store,
    clock: Clock,
    layers: Mapping[str, QuantizedLayer],
    bits: Mapping[str, int],
    attention: Mapping[str, AttentionProducts],
    recipe: Recipe,
    progress: Progress,
) -> None:
    """Give layers and attention products their intervals.

    Args:
        run: ``run(sample, timestep, **conditioning)``, the denoiser with its weights already quantized.
        store: the recording; ``recipe.calibration.rows_per_step`` samples of every row are read.
        layers: those to calibrate, by name. bits: their activation bits.
        attention: products to quantize, by owner; the operands get the recipe's activation bits and softmax bits.
    """
    chosen = {name: layer for name, layer in layers.items() if bits[name] != FLOAT_BITS}
    sites = [*chosen, *(product_sites(attention) if recipe.attention.quantize else [])]
    spreads = {site: Spread((recipe.seed, "spread", site), always_zero=site.endswith(":p")) for site in sites}
    _observe(run, store, clock, chosen, attention, spreads, recipe, progress)
    per_row = recipe.activations.steps == "per-step"

    def interval(site: str, width: int) -> IntervalProvider:
        qparams = spreads[site].qparams(width, recipe.activations.range, per_row)
        return TableInterval(qparams, width, clock) if per_row else ConstantInterval(qparams, width)

    for name, layer in chosen.items():
        layer.input_interval = interval(name, bits[name])
    if recipe.attention.quantize and recipe.activations.bits != FLOAT_BITS:
        for owner, products in attention.items():
            for i, product in enumerate(products.products):
                widths = dict.fromkeys("qkv", recipe.activations.bits) | {"p": recipe.attention.softmax_bits}
                product.intervals = nn.ModuleDict({o: interval(f"{owner}:{i}:{o}", w) for o, w in widths.items()})


def _observe(
    run: Callable[..., Tensor],
    store: Store,
    clock: Clock,
    layers: Mapping[str, QuantizedLayer],
    attention: Mapping[str, AttentionProducts],
    spreads: Mapping[str, Spread],
    recipe: Recipe,
    progress: Progress,
) -> None:
    count = min(recipe.calibration.rows_per_step, store.samples)
    with progress.stage("activation ranges", len(clock)) as advance:
        for row, step in enumerate(_first_steps(store, clock)):
            draw = generator(recipe.seed, "activation rows", row)
            samples = torch.randperm(store.samples, generator=draw)[:count].sort().values
            for part in samples.split(16):
                _see_row(run, store, step, part, layers, attention, spreads, row)
            advance(1)


def _see_row(
    run: Callable[..., Tensor],
    store: Store,
    step: int,
    samples: Tensor,
    layers: Mapping[str, QuantizedLayer],
    attention: Mapping[str, AttentionProducts],
    spreads: Mapping[str, Spread],
    row: int,
) -> None:
    def see(site: str, x: Tensor) -> None:
        if site in spreads:
            spreads[site].see(row, x, samples.numel())

    sample, timestep, conditioning = store.read(torch.full_like(samples, step), samples)
    with observed(layers, attention, see), torch.no_grad():
        run(sample, timestep, **conditioning)


def _first_steps(store: Store, clock: Clock) -> list[int]:
    """For every row of the clock, the first recorded step with that time step."""
    rows = clock.rows(store.timesteps)
    return [int((rows == row).nonzero()[0]) for row in range(len(clock))]
