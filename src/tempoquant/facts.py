"""The content of ``tempoquant.json``: a model's origin, schedule, quantized layers and timings."""

from collections.abc import Mapping
from typing import Any

from tempoquant.checkpoint import described_replacements, machine
from tempoquant.graph import Category
from tempoquant.job import Quantized
from tempoquant.layers import quantized_products
from tempoquant.pipelines import Model, state_hash
from tempoquant.temporal import replacements


def facts_of(model: Model, quantized: Quantized, conditioning: Mapping[str, Any] | None) -> dict[str, Any]:
    """Facts of a model that was just quantized, as plain JSON data.

    Args:
        model: the full-precision model.
        quantized: the job's result.
        conditioning: that it was calibrated with.
    """
    recipe = quantized.blueprint.recipe
    categories = {c.value: [layer.name for layer in quantized.graph.layers if layer.category is c] for c in Category}
    return {
        "model": model.name,
        "sample_shape": list(model.denoiser.sample_shape),
        "model_hash": state_hash(model.denoiser.module),
        "schedule": {
            "sampler": recipe.calibration.sampler,
            "steps": recipe.calibration.steps,
            "timesteps": quantized.clock.timesteps.tolist(),
        },
        "seed": recipe.seed,
        "conditioning": {name: _plain(value) for name, value in (conditioning or {}).items()},
        "layers": {name: len(layers) for name, layers in categories.items()},
        "attention_products": {
            name: {operand: interval.bits for operand, interval in product.intervals.items()}
            for name, product in quantized_products(quantized.module).items()
        },
        "cached_layers": {n: s["storage"] or "never read" for n, s in described_replacements(quantized.module).items()},
        "unreached_products": list(quantized.graph.unreached),
        "correction": quantized.measured,
        "machine": machine(),
        "timings": quantized.watch.wall,
        "cpu_timings": quantized.watch.cpu,
    }


def _plain(value: Any) -> Any:
    """A conditioning argument as evidence: numbers as they are, of all else the kind alone."""
    return value if isinstance(value, bool | int | float) else type(value).__name__


def covered(quantized: Quantized) -> dict[str, Any]:
    """The coverage of quantization, as JSON data: what is quantized of all that no table replaces."""
    return quantized.coverage.without(replacements(quantized.module)).to_dict()
