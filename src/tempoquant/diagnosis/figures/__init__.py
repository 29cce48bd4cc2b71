"""The papers' views of a quantized diffusion model: each is a function from data to a matplotlib figure."""

from tempoquant.diagnosis.figures.lines import (
    activation_ranges,
    interval_dynamics,
    noise_sqnr,
    temporal_cosine,
    trajectory_deviation,
    unit_cosine,
)
from tempoquant.diagnosis.figures.maps import mismatch_map, ranking, unit_map
from tempoquant.diagnosis.figures.style import save_figure, svg

__all__ = [
    "activation_ranges",
    "interval_dynamics",
    "mismatch_map",
    "noise_sqnr",
    "ranking",
    "save_figure",
    "svg",
    "temporal_cosine",
    "trajectory_deviation",
    "unit_cosine",
    "unit_map",
]
