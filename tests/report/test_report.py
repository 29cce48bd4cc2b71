"""One page about two models: what it says, and what it refuses."""

import re
from dataclasses import replace
from html.parser import HTMLParser
from urllib.parse import unquote

import numpy as np
import pytest
import torch
from markdown_it import MarkdownIt

import tempoquant
from tempoquant import Diagnosis
from tempoquant.diagnosis import Cost
from tempoquant.diagnosis.figures import ranking, temporal_cosine
from tempoquant.errors import InputError
from tempoquant.report import write_report
from tempoquant.report.entries import confidence
from tempoquant.report.pictures import difference, reduced
from tempoquant.report.plots import Plot
from tiny import small_recipe, unet_pipeline

VOID = ("meta", "link", "img", "input", "br", "hr", "use", "path")


class Balanced(HTMLParser):
    """Counts tags that stay open, and keeps what a page refers to."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.images: list[dict] = []
        self.addresses: list[str] = []
        self.ids: list[str] = []

    def handle_starttag(self, tag, attrs):
        found = dict(attrs)
        self.open += [] if tag in VOID else [tag]
        self.images += [found] if tag == "img" else []
        self.ids += [found["id"]] if "id" in found else []
        self.addresses += [v for k, v in attrs if k in ("src", "href", "xlink:href", "action") and v]

    def handle_startendtag(self, tag, attrs):
        self.handle_starttag(tag, attrs)
        if tag not in VOID:
            self.handle_endtag(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


def test_the_page_is_whole_and_alone(page):
    text = page.read_text()
    found = Balanced()
    found.feed(text)
    assert found.open == [] and len(text) < 10_000_000
    assert len(found.ids) == len(set(found.ids))
    assert all(address.startswith(("data:", "#")) for address in found.addresses)
    assert "@import" not in text and not re.search(r"url\((?!#)", text)
    assert all(image["alt"] for image in found.images) and "the original" in found.images[0]["alt"]
    assert text.count('<svg role="img"') == text.count("<svg ") > 10
    for said in ("rtn W8A8", "rtn W3A8", "blake2b", "tempoquant diagnose", "weight_bits", "prefers-color-scheme"):
        assert said in text
    assert "#5b6068" not in text.split("</style>")[1], "figures must take the page's ink"


@pytest.fixture
def few(monkeypatch):
    """Pages without the figures of each model, which take their time."""
    monkeypatch.setattr("tempoquant.report.page.model_plots", lambda entry: ())
    monkeypatch.setattr("tempoquant.report.page.shared_plots", lambda entries: ())


def test_what_the_page_says_is_escaped(folders, tmp_path, few):
    found = Diagnosis.load(folders[0] / "diagnosis")
    quantized = {**found.facts["quantized"], "name": "<script>alert(1)</script>"}
    replace(found, facts={**found.facts, "quantized": quantized}).save(tmp_path / "d")
    text = write_report([tmp_path / "d"], tmp_path / "r.html").read_text()
    assert "<script>alert" not in text and "&lt;script&gt;alert" in text


HOSTILE = (
    """<script>alert(1)</script> <img src=x onerror=alert(2)> [a](http://b) ![c](d) | `e` *f* _g_ $\\frac{$ &lt;"'"""
)


def hostile(found: Diagnosis) -> Diagnosis:
    """The diagnosis with a text everywhere that HTML and Markdown would read as more than text."""
    facts, recipe = found.facts, {**found.facts["quantized"]["recipe"], "method": f"x\n```\n{HOSTILE}"}
    quantized = {**facts["quantized"], "name": HOSTILE, "recipe": recipe, "files": {HOSTILE: HOSTILE}}
    said = {"quantized": quantized, "reference": {**facts["reference"], "name": HOSTILE}}
    said |= {"versions": {HOSTILE: HOSTILE}, "conditioning": {"prompt": [f"```\n{HOSTILE}"]}}
    said |= {"options": {"reference": HOSTILE, "layer": [HOSTILE]}}
    names = {name: (HOSTILE, *getattr(found, name)[1:]) for name in ("projections", "units", "layers")}
    costs = {n: tuple(replace(cost, name=HOSTILE) for cost in getattr(found, n)) for n in ("culprits", "step_ranges")}
    return replace(found, facts={**facts, **said}, policy=({"match": HOSTILE, "weight_bits": 8},), **names, **costs)


class Texts(Balanced):
    """Also keeps the text, and the tags with their attributes."""

    def __init__(self) -> None:
        super().__init__()
        self.text, self.tags = "", []

    def handle_starttag(self, tag, attrs):
        super().handle_starttag(tag, attrs)
        self.tags.append((tag, [name for name, _ in attrs]))

    def handle_data(self, data):
        self.text += data


@pytest.mark.parametrize("suffix", [".html", ".md"])
def test_text_stays_text(suffix, folders, tmp_path, monkeypatch):
    def plots(of: object) -> list[Plot]:
        costs = [Cost(HOSTILE, 3.0, 0.75), Cost("b", 1.0, 0.25)]
        lines = temporal_cosine(torch.arange(4), {HOSTILE: torch.ones(4), "b": torch.zeros(4)}, HOSTILE)
        return [Plot("a", ranking(costs, HOSTILE), HOSTILE), Plot("b", lines, HOSTILE, torch.arange(4))]

    for module in ("page", "markdown"):
        monkeypatch.setattr(f"tempoquant.report.{module}.model_plots", lambda entry: ())
        monkeypatch.setattr(f"tempoquant.report.{module}.shared_plots", plots)
    hostile(Diagnosis.load(folders[0] / "diagnosis")).save(tmp_path / "d")
    other = tmp_path / "<b>&"
    tempoquant.quantize(unet_pipeline(), small_recipe("rtn"), out=other)
    text = write_report([tmp_path / "d", other], (tmp_path / "a (1) <b>").with_suffix(suffix)).read_text()
    found = Texts()
    if suffix == ".md":
        text = MarkdownIt("commonmark").enable("table").render(text)
        pictures = [unquote(address) for address in re.findall(r"src=\"(.*?)\"", text)]
        assert len(pictures) == 4 and all((tmp_path / name).is_file() for name in pictures)
    found.feed(text)
    assert found.open == []
    # The page's own two scripts and the numbers of one figure, none in Markdown.
    assert [tag for tag, _ in found.tags].count("script") == (3 if suffix == ".html" else 0)
    assert not any(name.startswith("on") for _, names in found.tags for name in names)
    wanted = ("data:", "#") if suffix == ".html" else ("a%20%281%29%20%3Cb%3E_files/",)
    assert all(address.startswith(wanted) for address in found.addresses)
    # Verdict, table, findings, policy, commands: each says it in full.
    assert found.text.count(HOSTILE) > 8 and "<b>&" in found.text


def test_a_model_of_another_tool(folders, tmp_path, few):
    found = Diagnosis.load(folders[0] / "diagnosis")
    quantized = {"name": "theirs", "recipe": None, "size": None}
    replace(found, facts={**found.facts, "quantized": quantized}).save(tmp_path / "d")
    text = write_report([tmp_path / "d"], tmp_path / "r.html").read_text()
    assert "another tool&#39;s" in text and "not known" in text and "Use theirs: it draws" in text
    assert "tempoquant diagnose" in text and "tempoquant quantize" not in text


def test_markdown_has_the_same_content(folders, tmp_path):
    path = write_report(folders, tmp_path / "card.md")
    text = path.read_text()
    pictures = re.findall(r"!\[.+?\]\((.+?)\)", text)
    assert len(pictures) > 10 and all((tmp_path / name).is_file() for name in pictures)
    for said in ("Use ", "rtn W3A8", "policy:", "tempoquant diagnose", "on its way from noise"):
        assert said.lower() in text.lower()


def test_confidence_intervals_cover_the_mean():
    values = torch.from_numpy(np.random.default_rng(0).normal(30, 2, size=50))
    low, high = confidence(values, "test")
    # Of a normal sample the interval is near mean +- 1.96 s / sqrt(n).
    half = 1.96 * float(values.std()) / 50**0.5
    assert low == pytest.approx(float(values.mean()) - half, abs=0.15)
    assert high == pytest.approx(float(values.mean()) + half, abs=0.15)


def test_pictures():
    a, b = torch.zeros(2, 2, 1, dtype=torch.uint8), torch.tensor([[[0], [1]], [[10], [200]]], dtype=torch.uint8)
    assert difference(a, b).flatten().tolist() == [0, 8, 80, 255] == difference(b, a).flatten().tolist()
    assert reduced(torch.zeros(600, 300, 4, dtype=torch.uint8)).size == (128, 256)


def test_refusals(folders, tmp_path, few):
    (tmp_path / "there.html").touch()
    plain = tmp_path / "plain"
    tempoquant.quantize(unet_pipeline(), small_recipe("rtn"), out=plain)
    other = Diagnosis.load(folders[0] / "diagnosis")
    schedule = {**other.facts["schedule"], "seed": 9}
    replace(other, facts={**other.facts, "schedule": schedule}).save(tmp_path / "other")
    for given, out, said in (
        ([tmp_path / "none"], "r.html", "is no folder"),
        ([plain], "r.html", f"make one with `tempoquant diagnose {plain} --reference DDIMPipeline"),
        ([folders[0], tmp_path / "other"], "r.html", "schedule differs"),
        (folders, "there.html", "exists"),
        (folders, "r.pdf", "is a .html or a .md"),
        (folders, "none/r.html", "is no folder to write"),
    ):
        with pytest.raises(InputError, match=re.escape(said)):
            write_report(given, tmp_path / out)
    text = write_report([folders[0], plain], tmp_path / "r.html").read_text()
    assert f"tempoquant diagnose {plain}" in text and "has no diagnosis yet" in text


def test_colours_are_readable_in_both_themes(page):
    def luminance(colour):
        parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
        linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in parts]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    themes = [dict(re.findall(r"--(\w+): (#\w+)", rule)) for rule in re.findall(r":root {(.*?)}", page.read_text())]
    themes = [theme for theme in themes if theme]
    assert len(themes) == 2
    for theme in themes:
        # WCAG 2: text needs a contrast of 4.5.
        for ink in ("ink", "soft", "good"):
            for paper in ("paper", "field"):
                light, dark = sorted((luminance(theme[ink]), luminance(theme[paper])), reverse=True)
                assert (light + 0.05) / (dark + 0.05) >= 4.5, (theme, ink, paper)
