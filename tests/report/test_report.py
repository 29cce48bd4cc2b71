"""One page about two models: what it says, what it refuses, and what a browser makes of it."""

import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
import torch
from browser import Browser, installed

import tempoquant
from tempoquant import Diagnosis, diagnose
from tempoquant.errors import InputError
from tempoquant.report import write_report
from tempoquant.report.entries import Entry, confidence
from tempoquant.report.pictures import difference, reduced
from tempoquant.report.verdict import chosen, level, verdict
from tiny import small_recipe, unet_pipeline

VOID = ("meta", "link", "img", "input", "br", "hr", "use", "path")


@pytest.fixture(scope="module")
def folders(tmp_path_factory) -> list[Path]:
    """Two diagnosed folders of rtn, at 8 and 3 bits."""
    place = tmp_path_factory.mktemp("models")
    pipe = unet_pipeline()
    for bits in (8, 3):
        out = place / f"w{bits}"
        quantized = tempoquant.quantize(pipe, small_recipe("rtn", weights=bits), out=out)
        diagnose(quantized, pipe, samples=3, ranking_samples=1, batch_size=3, out=out / "diagnosis")
    return [place / "w8", place / "w3"]


@pytest.fixture(scope="module")
def page(folders, tmp_path_factory) -> Path:
    return write_report(folders, tmp_path_factory.mktemp("page") / "report.html")


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
    assert all(image["alt"] for image in found.images)
    assert text.count('<svg role="img"') == text.count("<svg ") > 10
    for said in ("rtn W8A8", "rtn W3A8", "blake2b", "tempoquant diagnose", "weight_bits", "prefers-color-scheme"):
        assert said in text
    assert "#5b6068" not in text.split("</style>")[1], "figures must take the page's ink"


@pytest.fixture
def few(monkeypatch):
    """Pages without the figures of each model, which take their time."""
    monkeypatch.setattr("tempoquant.report.page.own_plots", lambda entry: ())
    monkeypatch.setattr("tempoquant.report.page.shared_plots", lambda entries: ())


def test_what_the_page_says_is_escaped(folders, tmp_path, few):
    found = Diagnosis.load(folders[0] / "diagnosis")
    quantized = {**found.facts["quantized"], "name": "<script>alert(1)</script>"}
    replace(found, facts={**found.facts, "quantized": quantized}).save(tmp_path / "d")
    text = write_report([tmp_path / "d"], tmp_path / "r.html").read_text()
    assert "<script>alert" not in text and "&lt;script&gt;alert" in text


def test_markdown_has_the_same_content(folders, tmp_path):
    path = write_report(folders, tmp_path / "card.md")
    text = path.read_text()
    pictures = re.findall(r"!\[.+?\]\((.+?)\)", text)
    assert len(pictures) > 10 and all((tmp_path / name).is_file() for name in pictures)
    for said in ("Use ", "| rtn W3A8", "policy:", "tempoquant diagnose"):
        assert said.lower() in text.lower()


def test_verdicts():
    def entry(name, psnr, ratio):
        class Told:
            facts = {"quantized": {"size": {"ratio": ratio, "total": 1}}}  # noqa: RUF012

        told = Told()
        told.psnr = torch.tensor([psnr, psnr])
        return Entry(name, name, told)

    small, large, broken = entry("small", 30.0, 7.4), entry("large", 40.0, 3.9), entry("broken", 18.0, 7.4)
    tiny = entry("tiny", 15.0, 14.0)
    assert [level(p) for p in (50, 30, 25, 10)] == [
        "practically the same pictures",
        "nearly the same pictures",
        "similar pictures with visible differences",
        "different pictures",
    ]
    assert chosen([large, broken, small, tiny]) is small
    assert verdict([small, broken]) == (
        "Use small: it is 7.4 times smaller than full precision and draws nearly the same pictures (PSNR 30.0 dB on 2 "
        "images). broken is as small but draws different pictures (PSNR 18.0 dB)."
    )
    assert "large is larger" in verdict([small, large]) and "tiny is smaller but" in verdict([small, tiny])
    assert verdict([broken, tiny]).startswith("Do not use any of these: the best of them, broken")
    assert verdict([broken]).startswith("Do not use this: broken")


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
    replace(other, facts={**other.facts, "samples": 9}).save(tmp_path / "other")
    for given, out, said in (
        ([tmp_path / "none"], "r.html", "is no folder"),
        ([plain], "r.html", f"make one with `tempoquant diagnose {plain} --reference DDIMPipeline"),
        ([folders[0], tmp_path / "other"], "r.html", "samples differs"),
        (folders, "there.html", "exists"),
        (folders, "r.pdf", "is a .html or a .md"),
        (folders, "none/r.html", "is no folder to write"),
    ):
        with pytest.raises(InputError, match=re.escape(said)):
            write_report(given, tmp_path / out)
    text = write_report([folders[0], plain], tmp_path / "r.html").read_text()
    assert f"tempoquant diagnose {plain}" in text and "has no diagnosis yet" in text


@pytest.mark.skipif(not installed(), reason="no chromium with chromedriver here: the page is not opened in a browser")
def test_in_a_browser(page, tmp_path):
    with Browser() as browser:
        browser.colours("light")
        browser.open(page)
        assert browser.run("return document.title") == "Which quantized model to use"
        shown = "return [...document.querySelectorAll('.set')].map(s => getComputedStyle(s).display != 'none')"
        assert browser.run(shown) == [True, False, False]
        switch = "const s = document.getElementById('sample'); s.value = '2'; s.dispatchEvent(new Event('change'));"
        assert browser.run(switch + shown) == [False, True, False]
        place = "return document.querySelector('.strip').style.transform"
        slide = "const s = document.getElementById('step'); s.value = 1; s.dispatchEvent(new Event('input'));"
        assert browser.run(slide + place) == "translateX(-25%)"
        assert browser.run("return document.getElementById('step-said').textContent") == "t = 50 (2 of 4)"
        dark = "return getComputedStyle(document.body).backgroundColor"
        light = browser.run(dark)
        browser.screenshot(tmp_path / "light.png")
        browser.colours("dark")
        assert light == "rgb(255, 255, 255)" and browser.run(dark) == "rgb(20, 23, 27)"
        browser.screenshot(tmp_path / "dark.png")
        browser.width(390)
        assert browser.run("return document.documentElement.scrollWidth") == 390
        browser.screenshot(tmp_path / "phone.png")
        assert browser.complaints() == []
        assert all((tmp_path / f"{name}.png").stat().st_size > 10_000 for name in ("light", "dark", "phone"))


@pytest.mark.skipif(not installed(), reason="no chromium with chromedriver here: the page is not opened in a browser")
def test_the_essentials_need_no_script(page):
    with Browser() as browser:
        browser.devtools("Emulation.setScriptExecutionDisabled", value=True)
        browser.open(page)
        browser.devtools("Emulation.setScriptExecutionDisabled", value=False)
        assert browser.run("return [...document.querySelectorAll('.set')].every(s => s.offsetHeight > 0)")
        assert browser.run("return [...document.querySelectorAll('.controls')].every(c => c.offsetHeight == 0)")
