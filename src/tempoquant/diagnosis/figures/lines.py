"""Line plots over the time steps, one line a model or a layer."""

from collections.abc import Mapping

from matplotlib.figure import Figure
from torch import Tensor

from tempoquant.diagnosis.activation_quantiles import LEVELS
from tempoquant.diagnosis.figures.style import COLOURS, INK, LINES, MARKERS, legend, one_axes, over_steps, styled


def temporal_cosine(timesteps: Tensor, values: Mapping[str, Tensor], feature: str) -> Figure:
    """Cosine of one temporal feature with full precision at every step (TFMQ-DM, CVPR 2024, figures 2 and 5).

    Args:
        timesteps: (K,) in step order.
        values: (K,) cosines by label, one a model.
        feature: name of the projection, for the title.
    """
    return _lines(timesteps, values, f"Temporal feature of {feature}", "cosine with full precision")


def unit_cosine(timesteps: Tensor, values: Mapping[str, Tensor], unit: str) -> Figure:
    """Cosine of one unit's output with full precision at every step, on the same inputs.

    Args:
        timesteps: (K,) in step order.
        values: (K,) cosines by label, one a model.
        unit: its name, for the title.
    """
    return _lines(timesteps, values, f"Output of {unit}", "cosine with full precision")


def noise_sqnr(timesteps: Tensor, values: Mapping[str, Tensor]) -> Figure:
    """Signal-to-quantization-noise ratio of the predicted noise, dB, at every step.

    Args:
        timesteps: (K,) in step order.
        values: (K,) dB by label, one a model.
    """
    return _lines(timesteps, values, "Predicted noise on the same inputs", "SQNR in dB (more is better)")


def trajectory_deviation(
    timesteps: Tensor, values: Mapping[str, Tensor], title: str = "Own trajectories from the same noise"
) -> Figure:
    """Relative distance of trajectories from the full-precision ones of the same noise (TFMQ-DM, figure 2).

    Args:
        timesteps: (K,) in step order.
        values: (K,) by label, 0 to 1: a model, or the model with some of its layers quantized.
        title: of the figure.
    """
    percent = {label: 100 * value for label, value in values.items()}
    return _lines(timesteps, percent, title, "distance from full precision in %")


def activation_ranges(timesteps: Tensor, quantiles: Tensor, interval: Tensor, layer: str) -> Figure:
    """The distribution of a layer's input at every step, and the interval in use (TFMQ-DM, figure I; TDQ, figures 2-5).

    Args:
        timesteps: (K,) in step order.
        quantiles: (K, 7) of the full-precision input, at ``LEVELS``.
        interval: (K, 2) least and greatest value on the grid of the quantized input; NaN where there is none.
        layer: its name, for the title.
    """
    with styled():
        figure, axes = one_axes()
        t = timesteps.tolist()
        middle = len(LEVELS) // 2
        names = ("least to greatest", "1 % to 99 %", "25 % to 75 %")
        for i, name in enumerate(names):
            low, high = quantiles[:, i].tolist(), quantiles[:, -1 - i].tolist()
            axes.fill_between(t, low, high, color=COLOURS[0], alpha=0.25 + 0.2 * i, linewidth=0, label=name)
        axes.plot(t, quantiles[:, middle].tolist(), color=INK, linewidth=1.0, label="median")
        if not bool(interval.isnan().all()):
            axes.plot(t, interval[:, 0].tolist(), color=COLOURS[1], linestyle="--", label="interval in use")
            axes.plot(t, interval[:, 1].tolist(), color=COLOURS[1], linestyle="--")
        axes.set(title=f"Input of {layer}", ylabel="value")
        over_steps(axes)
        axes.legend(loc="center left", bbox_to_anchor=(1.0, 0.5), fontsize=8)
    return figure


def interval_dynamics(timesteps: Tensor, intervals: Mapping[str, Tensor]) -> Figure:
    """Widths of quantization intervals over the steps, each relative to its mean (TDQ, figures 1 to 3).

    Args:
        timesteps: (K,) in step order.
        intervals: (K, 2) least and greatest value by label, one a layer.
    """
    widths = {name: interval[:, 1] - interval[:, 0] for name, interval in intervals.items()}
    relative = {name: width / width.mean() for name, width in widths.items()}
    return _lines(timesteps, relative, "Quantization intervals over the steps", "width relative to its mean")


def _lines(timesteps: Tensor, values: Mapping[str, Tensor], title: str, ylabel: str) -> Figure:
    with styled():
        figure, axes = one_axes()
        with_markers = len(timesteps) <= 60
        for i, (label, value) in enumerate(values.items()):
            axes.plot(
                timesteps.tolist(),
                value.tolist(),
                label=label,
                color=COLOURS[i % len(COLOURS)],
                linestyle=LINES[i % len(LINES)],
                marker=MARKERS[i % len(MARKERS)] if with_markers else None,
            )
        axes.set(title=title, ylabel=ylabel)
        axes.ticklabel_format(axis="y", useOffset=False)
        over_steps(axes)
        legend(axes, len(values))
    return figure
