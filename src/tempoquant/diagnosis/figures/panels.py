"""Figures of one small panel a layer: quantization intervals on activations over the steps."""

from collections.abc import Mapping, Sequence

from matplotlib.axes import Axes
from matplotlib.colors import LogNorm
from matplotlib.figure import Figure
from torch import Tensor

from tempoquant.diagnosis.figures.style import COLOURS, LINES, styled

COLUMNS = 3
PANEL_WIDTH, PANEL_HEIGHT = 2.75, 1.95
BANDS = ("all values", "1 % to 99 %", "25 % to 75 %")
GREYS = ("#e4e6e9", "#c4c8cd", "#999fa7")
"""Of the bands, the widest first: opaque, so that the legend shows what the panels do."""
MAP = "Greys"
"""Below coloured lines."""
RAREST, COMMONEST = 1e-4, 0.3
"""Ends of the colour scale."""
LONGEST = 34


def interval_panels(
    timesteps: Tensor, layers: Sequence[str], quantiles: Tensor, intervals: Mapping[str, Tensor]
) -> Figure:
    """Intervals of several models on quantiles of the quantized activations (TDQ, NeurIPS 2023, figures 2 to 5).

    Args:
        timesteps: (K,) in step order.
        layers: L names.
        quantiles: (L, K, 7) of the full-precision inputs, at ``LEVELS``.
        intervals: by label, (S, L, K, 2) least and greatest values of S models, whose lines share a colour.
    """
    with styled():
        figure, panels = _grid(layers)
        t = timesteps.tolist()
        for i, axes in enumerate(panels):
            for band, name in enumerate(BANDS):
                low, high = quantiles[i, :, band].tolist(), quantiles[i, :, -1 - band].tolist()
                axes.fill_between(t, low, high, color=GREYS[band], linewidth=0, label=name)
            _draw_intervals(axes, timesteps, {label: bounds[:, i] for label, bounds in intervals.items()})
        figure.supylabel("input of the layer", fontsize=9)
        _finish(figure, panels)
    return figure


def activation_maps(
    timesteps: Tensor, layers: Sequence[str], edges: Tensor, shares: Tensor, intervals: Mapping[str, Tensor]
) -> Figure:
    """Histograms of layers' inputs at every step as a grey map, with the intervals of several models as lines.

    Args:
        timesteps: (K,) in step order.
        layers: L names.
        edges: (L, B + 1) of the bins.
        shares: (L, K, B) share of a step's values in each bin.
        intervals: as of :func:`interval_panels`.
    """
    with styled():
        figure, panels = _grid(layers)
        for i, axes in enumerate(panels):
            image = axes.pcolormesh(
                timesteps.tolist(),
                ((edges[i, 1:] + edges[i, :-1]) / 2).tolist(),
                shares[i].T.clamp(min=RAREST),
                cmap=MAP,
                norm=LogNorm(RAREST, COMMONEST),
                rasterized=True,
            )
            axes.grid(False)
            _draw_intervals(axes, timesteps, {label: bounds[:, i] for label, bounds in intervals.items()})
            axes.set_ylim(float(edges[i, 0]), float(edges[i, -1]))
        shares_label = "share of the step's values in %"
        bar = figure.colorbar(image, ax=list(panels), label=shares_label, aspect=40, extend="max")
        bar.ax.yaxis.set_major_formatter(lambda share, _: f"{100 * share:g}")
        figure.supylabel("input of the layer", fontsize=9)
        _finish(figure, panels)
    return figure


def _grid(layers: Sequence[str]) -> tuple[Figure, list[Axes]]:
    columns = min(COLUMNS, len(layers))
    rows = -(-len(layers) // columns)
    figure = Figure(figsize=(max(4.5, PANEL_WIDTH * columns), PANEL_HEIGHT * rows + 0.7), layout="constrained")
    cells = figure.subplots(rows, columns, sharex=True, squeeze=False).flatten().tolist()
    for axes in cells[len(layers) :]:
        axes.remove()
    panels = cells[: len(layers)]
    for axes, layer in zip(panels, layers, strict=True):
        axes.set_title(layer if len(layer) <= LONGEST else f"...{layer[-LONGEST + 3 :]}", fontsize=8)
        axes.tick_params(labelsize=8)
    for axes in panels[-columns:]:
        axes.set_xlabel("time step t", fontsize=8)
        axes.tick_params(labelbottom=True)
    panels[0].invert_xaxis()
    return figure, panels


def _draw_intervals(axes: Axes, timesteps: Tensor, intervals: Mapping[str, Tensor]) -> None:
    for number, (label, models) in enumerate(intervals.items()):
        several = f", {len(models)} runs" if len(models) > 1 else ""
        for run, bounds in enumerate(models):
            for side in range(2):
                axes.plot(
                    timesteps.tolist(),
                    bounds[:, side].tolist(),
                    color=COLOURS[(number + 1) % len(COLOURS)],
                    linestyle=LINES[number % len(LINES)],
                    linewidth=1.1,
                    label=f"interval of {label}{several}" if run == side == 0 else None,
                )


def _finish(figure: Figure, panels: Sequence[Axes]) -> None:
    handles, labels = panels[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=3, fontsize=8)
