"""Figures: labelled, readable, the same bytes each time, and true to their data."""

from xml.etree import ElementTree

import matplotlib
import pytest
import torch
from PIL import Image

from tempoquant.diagnosis import Cost
from tempoquant.diagnosis.figures import (
    activation_maps,
    activation_ranges,
    interval_dynamics,
    interval_panels,
    mismatch_map,
    noise_sqnr,
    ranking,
    save_figure,
    save_picture,
    svg,
    temporal_cosine,
    trajectory_deviation,
    unit_cosine,
    unit_map,
)
from tempoquant.diagnosis.figures.style import COLOURS
from tempoquant.errors import InputError

SVG_TEXT = "{http://www.w3.org/2000/svg}text"
T = torch.tensor([75, 50, 25, 0])
VALUES = {"one": torch.tensor([1.0, 0.9, 0.8, 0.7]), "two": torch.tensor([1.0, 1.0, 0.99, 0.98])}
INTERVALS = torch.tensor([[-1.0, 1.0], [-2.0, 2.0], [-3.0, 3.0], [-4.0, 4.0]])
RUNS = {"tdq": torch.stack([INTERVALS, INTERVALS / 2]).expand(3, 2, 4, 2), "lsq": INTERVALS.expand(1, 2, 4, 2)}
SHARES = torch.tensor([[0.25, 0.5, 0.25, 0.0]]).expand(2, 4, 4)
FIGURES = {
    "cosine": lambda: temporal_cosine(T, VALUES, "emb"),
    "unit": lambda: unit_cosine(T, VALUES, "block"),
    "noise": lambda: noise_sqnr(T, VALUES),
    "deviation": lambda: trajectory_deviation(T, VALUES),
    "ranges": lambda: activation_ranges(T, torch.linspace(-1, 1, 7).expand(4, 7), INTERVALS, "layer"),
    "intervals": lambda: interval_dynamics(T, {"layer": INTERVALS}),
    "panels": lambda: interval_panels(T, ["a", "b"], torch.linspace(-1, 1, 7).expand(2, 4, 7), RUNS),
    "maps": lambda: activation_maps(T, ["a", "b"], torch.linspace(-4, 4, 5).expand(2, 5), SHARES, RUNS),
    "map": lambda: unit_map(T, ["a", "b"], torch.tensor([[20.0] * 4, [torch.inf] * 4])),
    "mismatch": lambda: mismatch_map(T.flip(0), torch.tensor([[0, 1, 2, 3], [1, 1, 2, 3]])),
    "ranking": lambda: ranking([Cost("a", 3.0, 0.75), Cost("b", 1.0, 0.25)], "Layers", ["b"]),
}


@pytest.mark.parametrize("name", FIGURES)
def test_labelled_and_saved(name, tmp_path):
    before = dict(matplotlib.rcParams)
    figure = FIGURES[name]()
    axes = figure.axes[0]
    assert axes.get_title() and axes.get_xlabel()
    assert axes.get_ylabel() or [label.get_text() for label in axes.get_yticklabels()]
    png, vector = save_figure(figure, tmp_path / "a.b")
    assert (png.name, vector.name) == ("a.b.png", "a.b.svg") and min(Image.open(png).size) > 250
    assert svg(FIGURES[name](), "a.b") == vector.read_text() != svg(FIGURES[name](), "other")
    assert dict(matplotlib.rcParams) == before


def test_lines_show_their_values():
    axes = FIGURES["deviation"]().axes[0]
    assert [line.get_ydata() for line in axes.lines] == [
        pytest.approx([100, 90, 80, 70]),
        pytest.approx([100, 100, 99, 98]),
    ]
    assert axes.get_xlim()[0] > axes.get_xlim()[1], "sampling runs from left to right"
    assert [text.get_text() for text in axes.get_legend().get_texts()] == ["one", "two"]
    (line,) = FIGURES["intervals"]().axes[0].lines
    assert line.get_ydata() == pytest.approx([0.4, 0.8, 1.2, 1.6])


def test_the_mismatch_map_counts_projections():
    data = FIGURES["mismatch"]().axes[0].images[0].get_array()
    # Column: the time step; row: the step its feature is nearest to.
    assert data.filled(0).tolist() == [[50, 0, 0, 0], [50, 100, 0, 0], [0, 0, 100, 0], [0, 0, 0, 100]]


def test_intervals_are_drawn_only_where_there_are_some():
    quantiles = torch.linspace(-1, 1, 7).expand(4, 7)
    drawn, none = (activation_ranges(T, quantiles, i, "x").axes[0] for i in (INTERVALS, INTERVALS * torch.nan))
    assert [len(axes.lines) for axes in (drawn, none)] == [3, 1]


@pytest.mark.parametrize("name", ["panels", "maps"])
def test_every_run_has_its_two_lines_in_every_panel_and_every_recipe_its_colour(name):
    figure = FIGURES[name]()
    for i, axes in enumerate(figure.axes[:2]):
        assert axes.get_title() == "ab"[i] and len(axes.lines) == 2 * (3 + 1)
        assert axes.lines[1].get_ydata() == pytest.approx(RUNS["tdq"][0, i, :, 1].tolist())
        assert [line.get_color() for line in axes.lines] == [COLOURS[1]] * 6 + [COLOURS[2]] * 2
        assert axes.get_xlim()[0] > axes.get_xlim()[1]
    texts = [text.get_text() for text in figure.legends[0].get_texts()]
    assert texts[-2:] == ["interval of tdq, 3 runs", "interval of lsq"]


def test_a_map_shows_shares_by_value_and_step():
    (mesh,) = FIGURES["maps"]().axes[0].collections
    # Rows: values from the least; columns: steps. What never occurs is as pale as the rarest that is told apart.
    assert mesh.get_array().tolist() == [pytest.approx([share] * 4) for share in (0.25, 0.5, 0.25, 1e-4)]


@pytest.mark.parametrize("name", ["$\\frac{$", "a$b$ <b>&\"' \x1b[31m\x00 日本"])
def test_names_are_drawn_as_they_are(name, tmp_path, recwarn):
    one = torch.linspace(1, 0.7, 4)
    quantiles, runs = torch.linspace(-1, 1, 7).expand(1, 4, 7), {name: INTERVALS.expand(1, 1, 4, 2)}
    figures = [
        temporal_cosine(T, {name: one, "other": one}, name),
        interval_dynamics(T, {name: INTERVALS, "other": INTERVALS}),
        interval_panels(T, [name], quantiles, runs),
        activation_maps(T, [name], torch.linspace(-4, 4, 5).expand(1, 5), SHARES[:1], runs),
        unit_map(T, [name, "other"], one.expand(2, 4)),
        ranking([Cost(name, 3.0, 0.75), Cost("other", 1.0, 0.25)], "Layers", [name]),
    ]
    printed = "".join(c if c.isprintable() else "\ufffd" for c in name)
    for i, figure in enumerate(figures):
        # As text that a reader of XML finds again; a formula would be in pieces.
        drawn = save_figure(figure, tmp_path / f"{i}")[1].read_text()
        texts = [element.text or "" for element in ElementTree.fromstring(drawn).iter(SVG_TEXT)]
        assert any(text.endswith(printed) for text in texts), (i, texts)
    assert not any("Glyph" in str(warning.message) for warning in recwarn)


def test_one_picture_by_its_ending(tmp_path):
    figure = FIGURES["panels"]()
    save_picture(figure, tmp_path / "a.png")
    save_picture(figure, tmp_path / "a.svg")
    assert Image.open(tmp_path / "a.png").size[0] > 250 and (tmp_path / "a.svg").read_text().startswith("<?xml")
    with pytest.raises(InputError, match=r"a.pdf is no figure's name: it must end in .png or .svg"):
        save_picture(figure, tmp_path / "a.pdf")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.png", "a.svg"]


def test_colours_stand_out_from_black_and_white():
    def luminance(colour: str) -> float:
        parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
        linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in parts]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    # WCAG 2: graphics need a contrast of 3.
    for colour in COLOURS[:4]:
        light, dark = 1.05 / (luminance(colour) + 0.05), (luminance(colour) + 0.05) / (luminance("#14171b") + 0.05)
        assert light >= 2.9 and dark >= 3, (colour, light, dark)
