"""Figures in a page: what a pointer reads from them stands where they draw it."""

import json
import math

import pytest
import torch

from tempoquant.diagnosis.figures import activation_ranges, mismatch_map, noise_sqnr, unit_map
from tempoquant.report.inline import inline, numbers
from tempoquant.report.plots import Plot

T = torch.tensor([75, 50, 25, 0])


def drawn(figure, **told) -> dict:
    plot = Plot("x", figure, "words", T, **told)
    inline(plot, "place")
    return numbers(plot)


def test_lines_are_read_where_they_stand():
    figure = noise_sqnr(T, {"a": torch.tensor([1.0, 2.0, math.inf, math.nan]), "_hidden": torch.zeros(4)})
    found = drawn(figure)
    assert found["series"] == [{"name": "a", "values": [1.0, 2.0, "infinite", "none"]}]
    assert found["t"] == [75, 50, 25, 0] and found["limits"][0] > found["limits"][1]
    left, top, right, bottom = found["box"]
    axes = figure.axes[0]
    # The share of the width at which matplotlib puts t = 50.
    x = axes.transData.transform((50, 0))[0] / figure.bbox.width
    share = (50 - found["limits"][0]) / (found["limits"][1] - found["limits"][0])
    assert left + share * (right - left) == pytest.approx(x, abs=1e-5) and 0 < top < bottom < 1


def test_a_map_has_rows():
    found = drawn(unit_map(T, ["a", "b"], torch.tensor([[20.0, 10.0, 5.0, 1.0], [torch.inf] * 4])))
    assert found["rows"] == [{"name": "a", "values": [20, 10, 5, 1]}, {"name": "b", "values": [50] * 4}]


def test_what_a_figure_shows_may_be_told_apart_from_its_lines():
    figure = activation_ranges(T, torch.linspace(-1, 1, 7).expand(4, 7), torch.full((4, 2), torch.nan), "x")
    assert drawn(figure, series={"least": -torch.ones(4)})["series"] == [{"name": "least", "values": [-1] * 4}]


def test_the_element():
    found = inline(Plot("noise", noise_sqnr(T, {"</script><b>": T.float(), "b": T.float()}), "words", T), "shared")
    assert found["svg"].count("<title ") == 1 and 'aria-labelledby="shared-noise-said-title"' in found["svg"]
    assert "</script>" not in found["numbers"] and json.loads(found["numbers"])["series"][0]["name"] == "</script><b>"
    assert found["size"] == "usual" and found["width"] == 567
    other = inline(Plot("m", mismatch_map(T.flip(0), torch.tensor([[0, 1, 2, 3]])), "words"), "shared")
    assert other["numbers"] == ""


def test_a_name_that_looks_like_markup_is_drawn_as_it_is():
    name = 'id="a" url(#b) #5b6068 </script>'
    element = inline(Plot("x", noise_sqnr(T, {name: torch.ones(4), "b": torch.zeros(4)}), "words", T), "place")
    assert '>id="a" url(#b) #5b6068 &lt;/script&gt;</text>' in element["svg"]
    assert "</script" not in element["numbers"] and json.loads(element["numbers"])["series"][0]["name"] == name
