"""Which figures a report shows, with a sentence under each that says what to look for."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from matplotlib.figure import Figure
from torch import Tensor

from tempoquant.diagnosis import LEVELS, VARIANTS, Diagnosis
from tempoquant.diagnosis.figures import (
    activation_ranges,
    interval_dynamics,
    mismatch_map,
    noise_sqnr,
    ranking,
    temporal_cosine,
    trajectory_deviation,
    unit_cosine,
    unit_map,
)
from tempoquant.report.entries import Entry

WORST_LAYERS = 2
MOVING = 1.01
MOST_MOVING = 5


@dataclass(frozen=True)
class Plot:
    """A figure of the page.

    Attributes:
        name: in addresses and files. words: what it shows. timesteps: (K,) along its horizontal axis, if those are.
        series: (K,) by name, what it shows at each of them; its lines' own values if none are given.
    """

    name: str
    figure: Figure
    words: str
    timesteps: Tensor | None = None
    series: Mapping[str, Tensor] | None = None


def shared_plots(entries: Sequence[Entry]) -> Iterator[Plot]:
    """Figures in which all models stand beside each other."""
    first = entries[0].diagnosis
    t, by_label = first.timesteps, {entry.label: entry.diagnosis for entry in entries}
    yield Plot(
        "trajectory",
        trajectory_deviation(t, {label: d.deviations[0] for label, d in by_label.items()}),
        "How far each model's picture on its way is from the full-precision one that began with the same noise. "
        "Lower is better; errors add up from left to right.",
        t,
    )
    yield Plot(
        "temporal-only",
        trajectory_deviation(
            t, {label: d.deviations[1] for label, d in by_label.items()}, "Own trajectories, temporal layers quantized"
        ),
        f"The same with the {len(first.facts['temporal_layers'])} temporal layers alone quantized: what layers that "
        "see only the time step contribute.",
        t,
    )
    yield Plot(
        "noise",
        noise_sqnr(t, {label: d.noise_sqnr for label, d in by_label.items()}),
        "How much stronger the predicted noise is than the error that quantization leaves in it, step by step.",
        t,
    )
    features = {label: _named(d.projections, d.feature_cosine) for label, d in by_label.items()}
    for name in _worst(features, least=True):
        yield Plot(
            "temporal-cosine",
            temporal_cosine(t, {label: found[name] for label, found in features.items()}, name),
            "The temporal feature that suffers most: 1 means that quantization left its direction as it was.",
            t,
        )
    units = {label: _named(d.units, d.unit_cosine) for label, d in by_label.items()}
    for name in _worst(units, least=False):
        yield Plot(
            "unit-cosine",
            unit_cosine(t, {label: found[name] for label, found in units.items()}, name),
            "The part of the network whose output suffers most, on the same inputs.",
            t,
        )


def own_plots(entry: Entry) -> Iterator[Plot]:
    """Figures of one model."""
    d = entry.diagnosis
    yield Plot(
        "parts",
        trajectory_deviation(
            d.timesteps, dict(zip(VARIANTS, d.deviations, strict=True)), "Own trajectories by what is quantized"
        ),
        "Where the distance comes from: temporal layers alone, and all others.",
        d.timesteps,
    )
    if d.culprits:
        yield Plot(
            "culprits",
            ranking(d.culprits, "Layers quantized alone", d.facts["temporal_layers"]),
            "What each layer costs if it alone is quantized: the shares are of the error of all layers in the ranking.",
        )
        yield Plot(
            "steps",
            ranking(d.step_ranges, "Time steps at which the quantized model is used"),
            "Which part of the sampling costs most: quantized there, full precision elsewhere.",
        )
    if d.units:
        yield Plot(
            "units",
            unit_map(d.timesteps, d.units, d.unit_sqnr),
            "Every part of the network at every step: dark parts lose most.",
            d.timesteps,
        )
    if d.projections:
        yield Plot(
            "mismatch",
            mismatch_map(d.rows, d.nearest),
            "Off the diagonal, quantization turned the feature of one time step into that of another.",
        )
    yield from _ranges(d)


def _named(names: Sequence[str], values: Tensor) -> dict[str, Tensor]:
    """What was seen of them: another tool may compute a module's work elsewhere."""
    return {name: row for name, row in zip(names, values, strict=True) if not bool(row.isnan().any())}


def _worst(found: Mapping[str, Mapping[str, Tensor]], least: bool) -> list[str]:
    """The one that suffers most of those that all models have, by its least or its mean cosine; none if there is none.

    Args:
        found: (K,) cosines by model and name.
    """

    def total(name: str) -> float:
        cosines = torch.stack([values[name] for values in found.values()]).double().sum(0)
        return float(cosines.min() if least else cosines.mean())

    first, *rest = found.values()
    common = [name for name in first if all(name in values for values in rest)]
    return sorted(common, key=total)[:1]


def _ranges(d: Diagnosis) -> Iterator[Plot]:
    for number, i in enumerate(_worst_layers(d)):
        yield Plot(
            f"range{number}",
            activation_ranges(d.timesteps, d.activations[i], d.intervals[i], d.layers[i]),
            "What the layer is given at every step, and what its quantized input can hold.",
            d.timesteps,
            _told(d, i),
        )
    moving = _moving(d)
    if moving:
        yield Plot(
            "intervals",
            interval_dynamics(d.timesteps, {d.layers[i]: d.intervals[i] for i in moving}),
            "Intervals that follow the time step: those that move most, layers with the same ones shown once.",
            d.timesteps,
        )


def _moving(d: Diagnosis) -> list[int]:
    """The layers whose intervals change most over the steps; of layers that read one input the first."""
    widths = d.intervals[..., 1] - d.intervals[..., 0]
    found: list[int] = []
    for i in sorted(range(len(d.layers)), key=lambda i: -_spread(widths[i])):
        if _spread(widths[i]) > MOVING and not any(torch.equal(d.intervals[i], d.intervals[j]) for j in found):
            found.append(i)
    return found[:MOST_MOVING]


def _told(d: Diagnosis, layer: int) -> dict[str, Tensor]:
    least, greatest, interval = d.activations[layer, :, 0], d.activations[layer, :, -1], d.intervals[layer]
    told = {"least": least, "median": d.activations[layer, :, len(LEVELS) // 2], "greatest": greatest}
    quantized = {"interval from": interval[:, 0], "to": interval[:, 1]}
    return told if bool(interval.isnan().any()) else {**told, **quantized}


def _spread(width: Tensor) -> float:
    return float(width.max() / width.min()) if not bool(width.isnan().any()) else 0.0


def _worst_layers(d: Diagnosis) -> list[int]:
    """The costliest layers whose input is told; without a ranking those whose range moves most over the steps."""
    known = {name: i for i, name in enumerate(d.layers) if not bool(d.activations[i].isnan().any())}
    ranked = [known[cost.name] for cost in d.culprits if cost.name in known]
    if not ranked:
        widths = d.activations[..., -1] - d.activations[..., 0]
        ranked = sorted(known.values(), key=lambda i: -_spread(widths[i].clamp_min(1e-9)))
    return ranked[:WORST_LAYERS]
