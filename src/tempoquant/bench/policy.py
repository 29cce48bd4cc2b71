"""The precision policy of a recipe in words, and whether the integer engine can run it: what every table must say."""

from typing import Any

from tempoquant.methods import find_method
from tempoquant.recipe import FLOAT_BITS, Override, Recipe


def policy(recipe: Recipe) -> dict[str, str]:
    """``short``, a few words for a column, and ``full``, for below the table."""
    exceptions = [_told(override) for override in recipe.policy]
    if not recipe.policy:
        short = "all layers"
    elif all(o.match in ("@first", "@last") and (o.weight_bits, o.activation_bits) == (None, 8) for o in recipe.policy):
        short = "ends A8"
    else:
        short = f"{len(exceptions)} exceptions"
    products = f"attention products quantized, softmax to {recipe.attention.softmax_bits} bits"
    if not recipe.attention.quantize:
        short, products = f"{short}, attention float", "attention products float"
    elif recipe.attention.softmax_bits != 8:
        short += f", softmax {recipe.attention.softmax_bits}"
    if recipe.weights.split_shortcuts:
        short, products = f"{short}, split shortcuts", f"{products}; a grid for each part of a shortcut's input"
    if recipe.temporal.cache is not None:
        chosen = "all" if recipe.temporal.cache_choice == "always" else "those with the least error so"
        short = f"{short}, temporal {recipe.temporal.cache}"
        products += f"; temporal features looked up in {recipe.temporal.cache}, {chosen}"
    kept = f"; but {', '.join(exceptions)}" if exceptions else ""
    return {"short": short, "full": f"every Linear and Conv2d at the row's bits{kept}; {products}"}


def integer_engine(recipe: Recipe) -> str:
    """Whether integer arithmetic can run a model of this recipe: "yes", or what stands against it."""
    widths = {"weights": recipe.weights.bits, "activations": recipe.activations.bits}
    for part, bits in widths.items():
        if bits == FLOAT_BITS:
            return f"no: float {part}"
        if bits > 8:
            return f"no: {bits}-bit {part}"
    if recipe.weights.bits == 8 and not recipe.symmetric(8):
        return "no: asymmetric 8-bit weights"
    engine = find_method(recipe.method).engine
    return "two accumulations" if recipe.weights.split_shortcuts and engine == "yes" else engine


def _told(override: Override) -> str:
    kinds: dict[str, Any] = {"W": override.weight_bits, "A": override.activation_bits}
    return f"{override.match} {''.join(f'{kind}{bits}' for kind, bits in kinds.items() if bits is not None)}"
