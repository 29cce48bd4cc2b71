"""How much of a denoiser's parameters and arithmetic a recipe quantizes; what stays float, and why."""

import warnings
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from torch import nn

from tempoquant.graph import AttentionProduct, DenoiserGraph, Probe, Source, count_arithmetic, kind_of, sealed_around
from tempoquant.planning.plan import LayerPlan, plan_layers, ungrouped, without_tokens
from tempoquant.planning.reading import Reading
from tempoquant.recipe import FLOAT_BITS, Recipe

LEAST_ARITHMETIC = 0.9
"""Less of the arithmetic than this, of what the recipe does not itself keep in float, is warned of."""
ATTENTION = "attention product"
NORMS = (nn.modules.batchnorm._NormBase, nn.GroupNorm, nn.LayerNorm, nn.RMSNorm)
UNITS = {"macs": "arithmetic", "parameters": "parameters"}
GROUPS_SHOWN, PARTS_NAMED = 5, 3


class Reason(StrEnum):
    """Why something is float."""

    RECIPE = "kept by the recipe"
    KIND = "this kind of layer is not supported"
    OUTSIDE = "outside of any layer"
    UNUSED = "never executed"
    EMBEDDING = "looked up, not multiplied"
    NORMALIZATION = "normalization, or another scale or shift"
    BIAS = "bias"


@dataclass(frozen=True)
class Part:
    """One module itself, without its children, or one of its attention products.

    Attributes:
        name: of the module, "" for the denoiser itself.
        kind: its class, or :data:`ATTENTION`.
        parameters: how many numbers it holds.
        macs: multiply-accumulates of one call at batch 1.
        float_parameters: those that stay float.
        float_macs: those that stay float.
        reason: why; None if nothing does.
    """

    name: str
    kind: str
    parameters: int
    macs: int
    float_parameters: int = 0
    float_macs: int = 0
    reason: Reason | None = None


@dataclass(frozen=True)
class Coverage:
    """What is quantized of a denoiser, part by part.

    Where a recipe quantizes weights alone, arithmetic with a quantized weight counts as quantized.

    Attributes:
        parts: of the denoiser.
        ungrouped: quantized layers whose inputs the recipe's groups of weights do not divide: one scale a channel.
        per_tensor: those whose inputs have no tokens, as convolutions' have not, under a recipe of one scale a token.
    """

    parts: tuple[Part, ...]
    ungrouped: tuple[str, ...] = ()
    per_tensor: tuple[str, ...] = ()

    def without(self, names: Collection[str]) -> "Coverage":
        """The coverage of what is left where these modules are replaced by tables."""
        inside = tuple(f"{name}." for name in names)

        def stays(name: str) -> bool:
            return name not in names and not name.startswith(inside)

        ungrouped, per_tensor = (tuple(filter(stays, names)) for names in (self.ungrouped, self.per_tensor))
        return Coverage(tuple(p for p in self.parts if stays(p.name)), ungrouped, per_tensor)

    def to_dict(self) -> dict[str, Any]:
        """Totals, what is quantized of them, and all that is float, largest share first: plain JSON data."""
        parameters, macs = sum(p.parameters for p in self.parts), sum(p.macs for p in self.parts)

        def share(part: Part) -> float:
            return max(part.float_parameters / max(parameters, 1), part.float_macs / max(macs, 1))

        rest = sorted((part for part in self.parts if part.reason is not None), key=share, reverse=True)
        return {
            "parameters": parameters,
            "quantized_parameters": parameters - sum(p.float_parameters for p in rest),
            "macs": macs,
            "quantized_macs": macs - sum(p.float_macs for p in rest),
            "float": [
                {
                    "name": p.name,
                    "kind": p.kind,
                    "reason": p.reason,
                    "parameters": p.float_parameters,
                    "macs": p.float_macs,
                }
                for p in rest
            ],
            **({"ungrouped": list(self.ungrouped)} if self.ungrouped else {}),
            **({"per_tensor": list(self.per_tensor)} if self.per_tensor else {}),
        }


def coverage_of(probe: Probe, reading: Reading) -> Coverage:
    """What ``reading``'s recipe quantizes of the denoiser that was read, at the full size of ``probe``'s sample."""
    module, graph, recipe = probe.module, reading.original, reading.recipe
    plans, products = plan_layers(graph, recipe), _sources(graph.attention)
    quantized = _sources(reading.products if recipe.activations.bits != FLOAT_BITS else ())
    parts, own = [], Counter[str]()
    for source, macs in count_arithmetic(probe).items():
        if source in quantized:
            parts.append(Part(source.module, ATTENTION, 0, macs))
        elif source in products:
            parts.append(Part(source.module, ATTENTION, 0, macs, 0, macs, Reason.RECIPE))
        else:
            own[sealed_around(module, source.module) or source.module] += macs
    for name, sizes in _own_parameters(module).items():
        part, numbers, macs = module.get_submodule(name), sum(sizes.values()), own[name]
        if name in plans:
            parts.append(_layer(part, plans[name], recipe, sizes, macs))
        elif numbers or macs:
            why = _reason(name, part, graph, macs)
            parts.append(Part(name, type(part).__name__, numbers, macs, numbers, macs, why))
    planned = reading.plans(recipe), reading.graph, recipe
    return Coverage(tuple(parts), ungrouped(*planned), without_tokens(*planned))


def warn_of_float(coverage: Coverage) -> None:
    """Warn, in one line, where little is quantized of the arithmetic that the recipe does not itself keep in float."""
    found = coverage.to_dict()
    kept = sum(part["macs"] for part in found["float"] if part["reason"] == Reason.RECIPE)
    if found["quantized_macs"] < LEAST_ARITHMETIC * (found["macs"] - kept):
        warnings.warn(
            f"{_percent(found['quantized_macs'], found['macs'])} of the arithmetic is quantized; float are "
            f"{'; '.join(arithmetic_in_float(found))}",
            stacklevel=2,
        )


def coverage_lines(found: Mapping[str, Any]) -> list[str]:
    """For a terminal, from :meth:`Coverage.to_dict`: the quantized shares, and what is float, largest first."""
    parameters, macs = (_percent(found[f"quantized_{name}"], found[name]) for name in ("parameters", "macs"))
    groups = _by_reason(found, found["float"])
    lines = [
        f"quantized: {parameters} of {found['parameters']:,} parameters, "
        f"{macs} of {found['macs']:,} multiply-accumulates of a call"
    ]
    for reason, parts in groups[:GROUPS_SHOWN]:
        shares = [
            f"{_percent(sum(part[unit] for part in parts), found[unit])} of the {word}"
            for unit, word in UNITS.items()
            if any(part[unit] for part in parts)
        ]
        lines.append(f"float: {', '.join(shares)}: {_named(parts)}: {reason}")
    if len(groups) > GROUPS_SHOWN:
        lines.append(f"float: {len(groups) - GROUPS_SHOWN} more reasons")
    if found.get("ungrouped"):
        lines.append(f"one weight scale a channel, since groups do not divide its inputs: {_few(found['ungrouped'])}")
    if found.get("per_tensor"):
        lines.append(f"one activation scale a tensor, since its inputs have no tokens: {_few(found['per_tensor'])}")
    return lines


def arithmetic_in_float(found: Mapping[str, Any]) -> list[str]:
    """What the recipe cannot quantize of the arithmetic, in words, from :meth:`Coverage.to_dict`; largest first."""
    rest = [part for part in found["float"] if part["macs"] and part["reason"] != Reason.RECIPE]
    return [
        f"{_named(parts)} ({reason}, {_percent(sum(part['macs'] for part in parts), found['macs'])} of the arithmetic)"
        for reason, parts in _by_reason(found, rest)
    ]


def _layer(layer: nn.Module, plan: LayerPlan, recipe: Recipe, sizes: Mapping[str, int], macs: int) -> Part:
    """A layer that executes and can be quantized, as it is planned."""
    biases = sum(size for name, size in sizes.items() if name != "weight")
    weights = 0 if plan.weight_bits != FLOAT_BITS else sizes.get("weight", 0)
    widths = [(recipe.weights.bits, plan.weight_bits)]
    layer_kind = kind_of(layer)
    if layer_kind is not None and not layer_kind.looks_up:
        widths.append((recipe.activations.bits, plan.activation_bits))
    kept = plan.in_float or any(own == FLOAT_BITS != usual for usual, own in widths)
    reason = Reason.RECIPE if kept or weights else Reason.BIAS if biases else None
    kind = type(layer).__name__
    return Part(plan.name, kind, sum(sizes.values()), macs, weights + biases, macs if kept else 0, reason)


def _reason(name: str, part: nn.Module, graph: DenoiserGraph, macs: int) -> Reason:
    """Why a module's own parameters and arithmetic are float, where it is no layer that can be quantized."""
    kind = kind_of(part)
    if (kind is not None and kind.looks_up) or isinstance(part, nn.EmbeddingBag):
        return Reason.EMBEDDING
    if name in graph.unused or (name in graph.unsupported and not macs):
        return Reason.UNUSED
    if name in graph.unsupported:
        return Reason.KIND
    vectors = not macs and all(parameter.dim() < 2 for parameter in part.parameters(recurse=False))
    return Reason.NORMALIZATION if vectors or isinstance(part, NORMS) else Reason.OUTSIDE


def _own_parameters(module: nn.Module) -> dict[str, Counter[str]]:
    """By module, the sizes of its own parameters by their names; those inside a sealed module are its own."""
    seen: set[int] = set()
    sizes: dict[str, Counter[str]] = {}
    for name, part in module.named_modules():
        own = sizes.setdefault(sealed_around(module, name) or name, Counter())
        for parameter_name, parameter in part.named_parameters(recurse=False):
            if id(parameter) not in seen:
                seen.add(id(parameter))
                own[parameter_name] += parameter.numel()
    return sizes


def _sources(products: Iterable[AttentionProduct]) -> set[Source]:
    """The matrix products of attention as parts of the arithmetic."""
    return {
        Source(product.owner, product.kind, position)
        for product in products
        for position in (product.calls if product.kind == "explicit" else (product.index,))
    }


def _by_reason(
    found: Mapping[str, Any], parts: Iterable[Mapping[str, Any]]
) -> list[tuple[str, list[Mapping[str, Any]]]]:
    """Parts of equal reasons, those with the largest share together first."""
    groups: dict[str, list[Mapping[str, Any]]] = {}
    for part in parts:
        groups.setdefault(str(part["reason"]), []).append(part)

    def share(group: tuple[str, list[Mapping[str, Any]]]) -> float:
        return max(sum(part[unit] for part in group[1]) / max(found[unit], 1) for unit in UNITS)

    return sorted(groups.items(), key=share, reverse=True)


def _named(parts: Collection[Mapping[str, Any]]) -> str:
    """Few parts by their names, many by their kinds."""
    if len(parts) <= PARTS_NAMED:
        return ", ".join(f"{part['name'] or 'the denoiser itself'} ({part['kind']})" for part in parts)
    return ", ".join(f"{count} {kind}" for kind, count in Counter(part["kind"] for part in parts).most_common())


def _few(names: Sequence[str]) -> str:
    """The first names, and how many more there are."""
    more = f" and {len(names) - PARTS_NAMED} more" if len(names) > PARTS_NAMED else ""
    return ", ".join(names[:PARTS_NAMED]) + more


def _percent(part: int, whole: int) -> str:
    """A share that is rounded neither to nothing nor to all."""
    share = 100 * part / max(whole, 1)
    if 0 < share < 0.1:
        return "under 0.1 %"
    return "over 99.9 %" if 99.9 < share < 100 else f"{share:.1f} %"
