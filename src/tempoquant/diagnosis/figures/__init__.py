"""Figures of quantized diffusion models as in the papers: functions from tensors to matplotlib figures."""

from tempoquant.diagnosis.figures.lines import (
    activation_ranges,
    interval_dynamics,
    noise_sqnr,
    temporal_cosine,
    trajectory_deviation,
    unit_cosine,
)
from tempoquant.diagnosis.figures.maps import mismatch_map, ranking, unit_map
from tempoquant.diagnosis.figures.panels import activation_maps, interval_panels
from tempoquant.diagnosis.figures.style import save_figure, save_picture, svg

__all__ = [
    "activation_maps",
    "activation_ranges",
    "interval_dynamics",
    "interval_panels",
    "mismatch_map",
    "noise_sqnr",
    "ranking",
    "save_figure",
    "save_picture",
    "svg",
    "temporal_cosine",
    "trajectory_deviation",
    "unit_cosine",
    "unit_map",
]
