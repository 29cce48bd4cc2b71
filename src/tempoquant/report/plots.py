"""The figures of a report, with a sentence on each."""

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
        name: in addresses and files.
        figure: of matplotlib.
        words: a sentence on what it shows.
        timesteps: (K,) along its horizontal axis; None if that axis is another.
        series: (K,) by name, the values at each time step; None for those of its lines.
    """

    name: str
    figure: Figure
    words: str
    timesteps: Tensor | None = None
    series: Mapping[str, Tensor] | None = None


def shared_plots(entries: Sequence[Entry]) -> Iterator[Plot]:
    """Figures that compare all models."""
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
    features = {label: _measured_values(d.projections, d.feature_cosine) for label, d in by_label.items()}
    for name in _worst(features, least=True):
        yield Plot(
            "temporal-cosine",
            temporal_cosine(t, {label: found[name] for label, found in features.items()}, name),
            "The temporal feature that suffers most: 1 means that quantization left its direction as it was.",
            t,
        )
    units = {label: _measured_values(d.units, d.unit_cosine) for label, d in by_label.items()}
    for name in _worst(units, least=False):
        yield Plot(
            "unit-cosine",
            unit_cosine(t, {label: found[name] for label, found in units.items()}, name),
            "The part of the network whose output suffers most, on the same inputs.",
            t,
        )


def model_plots(entry: Entry) -> Iterator[Plot]:
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


def _measured_values(names: Sequence[str], values: Tensor) -> dict[str, Tensor]:
    """(K,) values by name, without those that hold NaN: another tool may compute a module's work elsewhere."""
    return {name: row for name, row in zip(names, values, strict=True) if not bool(row.isnan().any())}


def _worst(cosines_by_model: Mapping[str, Mapping[str, Tensor]], least: bool) -> list[str]:
    """Name of the module with the least cosine, of those that all models have; empty if there is none.

    Args:
        cosines_by_model: (K,) cosines by model and name.
        least: compare by the least cosine over the steps; else by the mean.
    """

    def total(name: str) -> float:
        cosines = torch.stack([values[name] for values in cosines_by_model.values()]).double().sum(0)
        return float(cosines.min() if least else cosines.mean())

    first, *rest = cosines_by_model.values()
    common = [name for name in first if all(name in values for values in rest)]
    return sorted(common, key=total)[:1]


def _ranges(d: Diagnosis) -> Iterator[Plot]:
    for number, i in enumerate(_worst_layers(d)):
        yield Plot(
            f"range{number}",
            activation_ranges(d.timesteps, d.activations[i], d.intervals[i], d.layers[i]),
            "What the layer is given at every step, and what its quantized input can hold.",
            d.timesteps,
            _range_series(d, i),
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
    moving: list[int] = []
    for i in sorted(range(len(d.layers)), key=lambda i: -_width_ratio(widths[i])):
        if _width_ratio(widths[i]) > MOVING and not any(torch.equal(d.intervals[i], d.intervals[j]) for j in moving):
            moving.append(i)
    return moving[:MOST_MOVING]


def _range_series(d: Diagnosis, layer: int) -> dict[str, Tensor]:
    least, greatest, interval = d.activations[layer, :, 0], d.activations[layer, :, -1], d.intervals[layer]
    series = {"least": least, "median": d.activations[layer, :, len(LEVELS) // 2], "greatest": greatest}
    quantized = {"interval from": interval[:, 0], "to": interval[:, 1]}
    return series if bool(interval.isnan().any()) else {**series, **quantized}


def _width_ratio(width: Tensor) -> float:
    """Greatest over least width (K,) of the steps; 0 if one is NaN."""
    return float(width.max() / width.min()) if not bool(width.isnan().any()) else 0.0


def _worst_layers(d: Diagnosis) -> list[int]:
    """The costliest layers with recorded inputs; without a ranking those whose range changes most over the steps."""
    rows = {name: i for i, name in enumerate(d.layers) if not bool(d.activations[i].isnan().any())}
    ranked = [rows[cost.name] for cost in d.culprits if cost.name in rows]
    if not ranked:
        widths = d.activations[..., -1] - d.activations[..., 0]
        ranked = sorted(rows.values(), key=lambda i: -_width_ratio(widths[i].clamp_min(1e-9)))
    return ranked[:WORST_LAYERS]
