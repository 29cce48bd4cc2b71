"""Maps over steps and layers, and rankings as bars."""

from collections.abc import Sequence

from matplotlib.figure import Figure
from torch import Tensor

from tempoquant.diagnosis.figures.style import COLOURS, INK, MAP, one_axes, styled
from tempoquant.diagnosis.free_running import Cost

MOST_ROWS = 40
MOST_TICKS = 9
ROW_INCHES = 0.2
BEST_DB, WORST_DB = 50.0, 0.0


def mismatch_map(rows: Tensor, nearest: Tensor) -> Figure:
    """For every time step, which step's full-precision feature its quantized one is nearest to (TFMQ-DM, section 3).

    Args:
        rows: (R,) time steps, ascending.
        nearest: (P, R) int64, of each projection and row the row of the nearest full-precision feature.
    """
    with styled():
        figure, axes = one_axes(width=4.6, height=4.0)
        count = len(rows)
        share = nearest.new_zeros(count, count).double()
        for projection in nearest:
            share[projection, range(count)] += 100 / len(nearest)
        image = axes.imshow(share.masked_fill(share == 0, float("nan")), origin="lower", cmap=MAP, vmin=0, vmax=100)
        axes.plot([-0.5, count - 0.5], [-0.5, count - 0.5], color=INK, linewidth=0.6, linestyle=":")
        ticks = _ticks(count)
        labels = [f"{float(rows[i]):g}" for i in ticks]
        axes.set_xticks(ticks, labels)
        axes.set_yticks(ticks, labels)
        axes.grid(False)
        axes.set(title="Temporal mismatch", xlabel="time step t", ylabel="time step of the nearest feature")
        figure.colorbar(image, ax=axes, label="temporal features in %")
    return figure


def unit_map(timesteps: Tensor, units: Sequence[str], sqnr: Tensor) -> Figure:
    """SQNR of every unit's output at every step, dB; of more than 40 units the 40 with the least mean.

    Args:
        timesteps: (K,) in step order.
        units: U names in order of execution.
        sqnr: (U, K) dB; infinite where outputs are equal.
    """
    with styled():
        worst = sorted(sqnr.mean(1).argsort()[:MOST_ROWS].tolist())
        figure, axes = one_axes(width=7.2, height=1.1 + ROW_INCHES * max(4, len(worst)))
        clipped = sqnr[worst].clamp(WORST_DB, BEST_DB)
        image = axes.imshow(clipped, aspect="auto", cmap=MAP, interpolation="nearest")
        axes.set_yticks(range(len(worst)), [units[i] for i in worst], fontsize=8)
        ticks = _ticks(len(timesteps))
        axes.set_xticks(ticks, [f"{float(timesteps[k]):g}" for k in ticks])
        axes.grid(False)
        axes.set(title="Outputs of units on the same inputs", xlabel="time step t (sampling runs from left to right)")
        figure.colorbar(image, ax=axes, label="SQNR in dB (more is better)")
    return figure


def ranking(costs: Sequence[Cost], title: str, temporal: Sequence[str] = ()) -> Figure:
    """Shares of the image error by what is quantized alone, as horizontal bars.

    Args:
        costs: of layers or ranges of steps, from top to bottom.
        title: of the figure.
        temporal: names drawn in another colour: layers whose only input is the time step.
    """
    with styled():
        figure, axes = one_axes(width=7.2, height=1.1 + 0.24 * max(3, len(costs)))
        names = [cost.name for cost in costs]
        colours = [COLOURS[1] if name in temporal else COLOURS[0] for name in names]
        bars = axes.barh(range(len(costs)), [100 * cost.share for cost in costs], color=colours, height=0.7)
        axes.bar_label(bars, [f"{100 * cost.share:.1f} %" for cost in costs], padding=3, fontsize=8)
        for bar, name in zip(bars, names, strict=True):
            bar.set_hatch("//" if name in temporal else None)
        axes.set_yticks(range(len(costs)), names, fontsize=8)
        axes.set_ylim(len(costs) - 0.4, -0.6)
        axes.margins(x=0.12)
        axes.grid(False, axis="y")
        axes.set(title=title, xlabel="share of the image error in %")
        if set(temporal) & set(names):
            axes.barh([0], [0], color=COLOURS[1], hatch="//", label="sees the time step alone")
            axes.legend(loc="lower right", fontsize=8)
    return figure


def _ticks(count: int) -> list[int]:
    step = max(1, -(-count // MOST_TICKS))
    return list(range(0, count, step))
