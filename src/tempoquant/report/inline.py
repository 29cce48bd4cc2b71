"""Figures inside the page: as SVG in the page's ink, with the numbers that a pointer or a key reads from them."""

import json
import math
import re
from collections.abc import Mapping
from typing import Any

from matplotlib.axes import Axes

from tempoquant.diagnosis.figures import svg
from tempoquant.diagnosis.figures.style import INK
from tempoquant.report.plots import Plot

PIXELS_AN_INCH = 105
"""One scale for all figures, so that their letters are of one size."""
LARGE_INCHES = 6.0
TAG = re.compile("<[^>]*>")


def inline(plot: Plot, place: str) -> dict[str, Any]:
    """A figure as an ``<svg>`` element whose ink is the page's, with a title for screen readers."""
    text = svg(plot.figure, f"{place}-{plot.name}")
    title = plot.figure.axes[0].get_title()
    # In tags alone: text may say the same.
    element = TAG.sub(lambda tag: _own(tag[0], f"{place}-{plot.name}-"), text[text.index("<svg") :])
    name = f"{place}-{plot.name}-said"
    element = re.sub(r"<svg ", f'<svg role="img" aria-labelledby="{name}-title" ', element, count=1)
    # A figure's own title is a drawing: its text would be read in bits.
    element = re.sub(r"(<svg [^>]*>)", rf'\1<title id="{name}-title">{_escaped(title)}</title>', element, count=1)
    return {
        "svg": element,
        "title": title,
        "words": plot.words,
        "size": "large" if plot.figure.get_figwidth() > LARGE_INCHES else "usual",
        "width": round(plot.figure.get_figwidth() * PIXELS_AN_INCH),
        "numbers": "" if plot.timesteps is None else _in_script(numbers(plot)),
    }


def _own(tag: str, prefix: str) -> str:
    """A tag in the page's ink, whose names are the page's only ones."""
    for reference in ('id="', "url(#", 'href="#'):
        tag = tag.replace(reference, f"{reference}{prefix}")
    return tag.replace(INK, "currentColor")


def numbers(plot: Plot) -> dict[str, Any]:
    """What a drawn figure over time steps shows, and where: its axes' box in shares of the figure, from the top left.

    Lines have a series each; a map has rows of values.
    """
    assert plot.timesteps is not None
    axes = plot.figure.axes[0]
    area = axes.get_position()
    found: dict[str, Any] = {
        "box": [_short(v) for v in (area.x0, 1 - area.y1, area.x1, 1 - area.y0)],
        "t": [_short(float(t)) for t in plot.timesteps],
    }
    if axes.images:
        names = [label.get_text() for label in axes.get_yticklabels()]
        values = axes.images[0].get_array()
        assert values is not None
        return found | {"rows": [{"name": n, "values": _row(v)} for n, v in zip(names, values, strict=True)]}
    return found | {"limits": [_short(v) for v in axes.get_xlim()], "series": _series(plot, axes)}


def _series(plot: Plot, axes: Axes) -> list[dict[str, Any]]:
    told: Mapping[str, Any] = plot.series or {str(line.get_label()): line.get_ydata() for line in axes.lines}
    return [{"name": name, "values": _row(values)} for name, values in told.items() if not name.startswith("_")]


def _row(values: Any) -> list[float | str]:
    """JSON has no number for what is infinite (the SQNR of equal things) or missing."""
    plain = map(float, values)
    return [_short(v) if math.isfinite(v) else "none" if math.isnan(v) else "infinite" for v in plain]


def _short(value: float) -> float:
    # Seven digits: cosines near 1 differ in the fifth.
    return float(f"{value:.7g}")


def _in_script(data: dict[str, Any]) -> str:
    """JSON that cannot end the ``<script>`` it stands in."""
    return json.dumps(data, separators=(",", ":")).replace("<", "\\u003c")


def _escaped(text: str) -> str:
    return text.replace("&", "&amp;").replace("<", "&lt;").replace("\\", "\\\\")
