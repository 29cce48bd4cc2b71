"""Figures inside an HTML page: SVG in the page's text colour, with the numbers that pointer and keys show."""

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
    """A figure as data for the template: an ``<svg>`` element in the page's text colour, title, words and numbers.

    Args:
        plot: the figure.
        place: of the page, unique with the plot's name: prefix of the SVG's ids.
    """
    text = svg(plot.figure, f"{place}-{plot.name}")
    title = plot.figure.axes[0].get_title()
    # In tags alone: text may say the same.
    element = TAG.sub(lambda tag: _localize(tag[0], f"{place}-{plot.name}-"), text[text.index("<svg") :])
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


def _localize(tag: str, prefix: str) -> str:
    """A tag in the page's text colour, its ids and references prefixed so that they are unique on the page."""
    for reference in ('id="', "url(#", 'href="#'):
        tag = tag.replace(reference, f"{reference}{prefix}")
    return tag.replace(INK, "currentColor")


def numbers(plot: Plot) -> dict[str, Any]:
    """The values that a figure over time steps shows, and the box of its axes in shares of the figure, as JSON data.

    Lines have a series each; a map has rows of values.

    Args:
        plot: drawn, with ``timesteps``.
    """
    assert plot.timesteps is not None
    axes = plot.figure.axes[0]
    area = axes.get_position()
    data: dict[str, Any] = {
        "box": [_short(v) for v in (area.x0, 1 - area.y1, area.x1, 1 - area.y0)],
        "t": [_short(float(t)) for t in plot.timesteps],
    }
    if axes.images:
        names = [label.get_text() for label in axes.get_yticklabels()]
        values = axes.images[0].get_array()
        assert values is not None
        return data | {"rows": [{"name": n, "values": _row(v)} for n, v in zip(names, values, strict=True)]}
    return data | {"limits": [_short(v) for v in axes.get_xlim()], "series": _series(plot, axes)}


def _series(plot: Plot, axes: Axes) -> list[dict[str, Any]]:
    series: Mapping[str, Any] = plot.series or {str(line.get_label()): line.get_ydata() for line in axes.lines}
    return [{"name": name, "values": _row(values)} for name, values in series.items() if not name.startswith("_")]


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
