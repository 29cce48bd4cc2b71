"""Style of all figures, and saving: readable on light and dark backgrounds, and by colour-blind readers."""

import io
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from tempoquant.files import replacing, write_whole
from tempoquant.outputs import check_picture

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#8a6d00", "#56B4E9")
"""Of Okabe and Ito's palette those that stand out from white and from black."""
LINES = ("-", "--", "-.", ":", (0, (5, 1, 1, 1, 1, 1)), (0, (1, 3)))
MARKERS = ("o", "s", "^", "D", "v", "P")
MAP = "viridis"
INK = "#5b6068"
"""Text and axes: contrast of at least 4.5 with white; pages with a dark side recolour it."""
WIDTH, HEIGHT = 5.4, 3.1
DOTS, PICTURE_DOTS = 160, 140
UNPRINTABLE = dict.fromkeys([*range(9), 11, 12, *range(14, 32)], "\ufffd")
"""Characters that XML cannot hold, by what stands for them."""
STYLE: Any = {
    "font.size": 9,
    "axes.edgecolor": INK,
    "axes.labelcolor": INK,
    "axes.titlecolor": INK,
    "text.color": INK,
    # Names of layers and models are drawn as they are: a dollar sign begins no formula.
    "text.parse_math": False,
    "xtick.color": INK,
    "ytick.color": INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.color": INK,
    "grid.alpha": 0.2,
    "grid.linewidth": 0.6,
    "legend.frameon": False,
    "lines.linewidth": 1.6,
    "lines.markersize": 3.5,
    "svg.fonttype": "none",
    "figure.facecolor": "none",
    "axes.facecolor": "none",
}


@contextmanager
def styled() -> Iterator[None]:
    """Apply ``STYLE`` to figures made in a ``with`` block; matplotlib's settings are restored afterwards."""
    with matplotlib.rc_context(STYLE):
        yield


def one_axes(width: float = WIDTH, height: float = HEIGHT) -> tuple[Figure, Axes]:
    """An empty figure with one pair of axes.

    Args:
        width: of the figure, inches.
        height: of the figure, inches.
    """
    figure = Figure(figsize=(width, height), layout="constrained")
    return figure, figure.subplots()


def over_steps(axes: Axes) -> None:
    """Make the horizontal axis one of time steps that run from noise to image, as sampling does."""
    axes.set_xlabel("time step t (sampling runs from left to right)")
    axes.invert_xaxis()


def legend(axes: Axes, count: int) -> None:
    """Add a legend if there is more than one line.

    Args:
        axes: that hold the lines.
        count: of the lines.
    """
    if count > 1:
        axes.legend(loc="best", fontsize=8)


def svg(figure: Figure, salt: str) -> str:
    """The figure as SVG text: the same figure and salt give the same bytes.

    Args:
        figure: to draw.
        salt: of the hashes that name elements, which must differ between figures on one page.
    """
    buffer = io.StringIO()
    with matplotlib.rc_context({**STYLE, "svg.hashsalt": salt}), _any_glyph():
        figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None})
    return buffer.getvalue().translate(UNPRINTABLE)


def save_figure(figure: Figure, stem: Path | str) -> list[Path]:
    """Write ``stem.png`` (on white, 160 dots an inch) and ``stem.svg``; returns both paths."""
    stem = Path(stem)
    paths = [stem.with_name(stem.name + suffix) for suffix in (".png", ".svg")]
    # The first drawing moves the layout a little, so that the second one's bytes would be others.
    write_whole(paths[1], svg(figure, stem.name))
    with _any_glyph(), replacing(paths[0]) as temporary:
        figure.savefig(temporary, dpi=DOTS, facecolor="white")
    return paths


def save_picture(figure: Figure, path: Path) -> None:
    """Write one file, a PNG on white or an SVG, by its suffix; whole or not at all.

    Raises:
        InputError: the suffix is neither ``.png`` nor ``.svg``.
    """
    check_picture(path)
    if path.suffix == ".svg":
        write_whole(path, svg(figure, path.stem))
        return
    options: dict[str, Any] = {"facecolor": "white", "format": "png", "pil_kwargs": {"optimize": True}}
    with _any_glyph(), replacing(path) as temporary:
        figure.savefig(temporary, dpi=PICTURE_DOTS, **options)


@contextmanager
def _any_glyph() -> Iterator[None]:
    """Silence warnings of characters that the font lacks in a ``with`` block: SVG has them as text, PNG a box."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing from font")
        yield
