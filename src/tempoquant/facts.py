"""What ``tempoquant.json`` says of a model: where it comes from, its schedule, what is quantized, and what it took."""

from collections.abc import Mapping
from typing import Any

from tempoquant.checkpoint import described_replacements, machine
from tempoquant.graph import Category
from tempoquant.job import Quantized
from tempoquant.layers import quantized_products
from tempoquant.pipelines import Model, state_hash
from tempoquant.temporal import replacements


def facts_of(target: Model, quantized: Quantized, conditioning: Mapping[str, Any] | None) -> dict[str, Any]:
    """What is known of a model when it is made, as plain JSON data.

    Args:
        target: the full-precision model. conditioning: that it was calibrated with.
    """
    recipe = quantized.blueprint.recipe
    categories = {c.value: [layer.name for layer in quantized.graph.layers if layer.category is c] for c in Category}
    return {
        "model": target.name,
        "sample_shape": list(target.denoiser.sample_shape),
        "model_hash": state_hash(target.denoiser.module),
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
    """What is quantized of all that is not replaced by tables."""
    return quantized.coverage.without(replacements(quantized.module)).to_dict()
