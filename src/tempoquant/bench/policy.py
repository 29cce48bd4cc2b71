"""The precision policy of a recipe in words, and whether the integer engine can run it: what every table must say."""

from collections.abc import Sequence
from typing import Any

from tempoquant.methods import find_method
from tempoquant.recipe import FLOAT_BITS, Override, Recipe

CACHED = {
    "always": "all",
    "least-error": "those with the least error so",
    "time-alone": "all, if they follow the time step alone",
}
"""What ``temporal.cache_choice`` means, in words."""


def policy(recipe: Recipe, in_float: Sequence[str] = ()) -> dict[str, str]:
    """``short``, a few words for a column, and ``full``, for below the table.

    Args:
        in_float: what of the denoiser's arithmetic no recipe can quantize, in words.
    """
    exceptions = ", ".join(f"{override.match} {_widths(override)}" for override in recipe.policy)
    kept = f"; but {exceptions}" if exceptions else ""
    others = f"; float: {', '.join(in_float)}" if in_float else ""
    parts = [_attention(recipe), *_additions(recipe)]
    layers = f"{_layers(recipe)} of Linear and Conv2d" if in_float else _layers(recipe)
    short = ", ".join(word for word in (layers, *(part[0] for part in parts)) if word)
    return {
        "short": short,
        "full": "; ".join([f"every Linear and Conv2d at the row's bits{kept}{others}", *(p[1] for p in parts)]),
    }


def _layers(recipe: Recipe) -> str:
    """The exceptions among layers in few words."""
    if not recipe.policy:
        return "all layers"
    kinds = {_widths(override) for override in recipe.policy}
    if {override.match for override in recipe.policy} == {"@first", "@last"} and len(kinds) == 1:
        return f"ends {kinds.pop()}"
    return f"{len(recipe.policy)} exceptions"


def _attention(recipe: Recipe) -> tuple[str, str]:
    if not recipe.attention.quantize:
        return "attention float", "attention products float"
    if recipe.activations.bits == FLOAT_BITS:
        return "", "attention products float, as all activations"
    bits = recipe.attention.softmax_bits
    return "" if bits == 8 else f"softmax {bits}", f"attention products quantized, softmax to {bits} bits"


def _additions(recipe: Recipe) -> list[tuple[str, str]]:
    """What else decides the precision, each in few words and in full."""
    additions = []
    if recipe.weights.split_shortcuts:
        additions.append(("split shortcuts", "a grid for each part of a shortcut's input"))
    additions += [
        (f"rotated {rule.group}", f"channels of {rule.match} rotated in groups of {rule.group}")
        for rule in recipe.transforms
    ]
    if recipe.activations.symmetric:
        additions.append(("symmetric", "zero points in the middle"))
    if recipe.activations.granularity == "per-token":
        additions.append(("A per token", "one activation scale a token in Linear layers"))
    if recipe.activations.dynamic:
        additions.append(("A dynamic", "activation scales computed from the input"))
    if recipe.temporal.cache is not None:
        chosen = CACHED[recipe.temporal.cache_choice]
        stored = recipe.temporal.cache
        additions.append((f"temporal {stored}", f"temporal features looked up in {stored}, {chosen}"))
    if recipe.correction is not None and recipe.correction.step_bits:
        widths = "/".join(str(bits) for bits in recipe.correction.step_bits)
        additions.append((f"A{widths} by step", f"activations take {widths} bits by step"))
    return additions


def integer_engine(recipe: Recipe) -> str:
    """Whether integer arithmetic can run a model of this recipe: "yes", or what stands against it."""
    widths = {"weights": recipe.weights.bits, "activations": recipe.activations.bits}
    for part, bits in widths.items():
        if bits == FLOAT_BITS:
            return f"no: float {part}"
        if bits > 8:
            return f"no: {bits}-bit {part}"
    if not recipe.has_form:
        return "no: intervals from the input"
    if recipe.activations.dynamic:
        return "no: dynamic inputs"
    if recipe.activations.granularity == "per-token":
        return "no: inputs per token"
    if recipe.weights.bits == 8 and not recipe.symmetric(8):
        return "no: asymmetric 8-bit weights"
    engine = find_method(recipe.method).engine
    return "two accumulations" if recipe.weights.split_shortcuts and engine == "yes" else engine


def _widths(override: Override) -> str:
    kinds: dict[str, Any] = {"W": override.weight_bits, "A": override.activation_bits}
    return "".join(f"{kind}{bits}" for kind, bits in kinds.items() if bits is not None)
