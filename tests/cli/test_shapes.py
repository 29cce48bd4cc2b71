"""Samples that are no images, and references outside [-1, 1], on the command line."""

import json
import sys
from pathlib import Path

import numpy as np
import pytest
from test_cli import file, refused, run  # noqa: F401

from shaped_models import SHAPED, SHAPES
from tempoquant import load
from tempoquant.pipelines import resolve

FEW = ("--method", "rtn", "--samples", "2", "--steps", "4")


@pytest.fixture(params=SHAPES)
def made(request, run):  # noqa: F811
    """The factory of a model whose samples are no images, quantized into ``out``."""
    Path("shaped.py").write_text(SHAPED)
    factory = f"shaped.py:{request.param}"
    assert run("quantize", factory, "-o", "out", *FEW)[0] == 0
    return request.param, factory


def test_they_are_drawn_into_an_array_and_judged(run, refused, made):  # noqa: F811
    name, factory = made
    own = ("--denoiser", factory)
    assert run("generate", "out", *own, "-n", "3", "-o", "x.npy")[0] == 0
    drawn = np.load("x.npy")
    wanted = load("out", denoiser=resolve(factory).denoiser).model.generate(3, steps=4, seed=0)
    assert drawn.shape == (3, *SHAPES[name]) and drawn.dtype == np.float32 and np.array_equal(drawn, wanted.numpy())
    assert "x.npy exists" in refused("generate", "out", *own, "-o", "x.npy")
    for place in ("x.png", "folder"):
        assert "write them to a .npy file" in refused("generate", "out", *own, "-o", place)
    pair = ("evaluate", "out", "--reference", factory, "-n", "2", "--noise-samples", "2")
    code, out, err = run(*pair, "--json", "e.json", "--require", "relative_error<=0.5,sqnr>=10")
    found = json.loads(Path("e.json").read_text())
    assert code == 0 and "warning" not in err and "PSNR" not in out.split("samples of")[0]
    assert f"samples of {SHAPES[name]} have no PSNR or SSIM" in out and "relative error" in out
    assert found["psnr"] is found["ssim"] is found["data_range"] is None
    full, ours = (
        target.generate(2, steps=4, seed=1).flatten(1).double().numpy()
        for target in (resolve(factory), load("out", denoiser=resolve(factory).denoiser).model)
    )
    error = np.linalg.norm(full - ours, axis=1) / np.linalg.norm(full, axis=1)
    assert found["relative_error"]["per_image"] == pytest.approx(error.tolist()) and 0 < error.max() < 0.5
    assert [outcome["met"] for outcome in found["requirements"]] == [True, True]


def test_what_needs_images_is_refused_before_any_work(refused, made, monkeypatch):  # noqa: F811
    name, factory = made
    for work in ("tempoquant.evaluation.trajectory._check_projections", "tempoquant.api.run_job"):
        monkeypatch.setattr(work, None)
    monkeypatch.setattr(sys.modules["tempoquant.diagnosis.diagnosing"], "record", None)
    report = ("--report", "r.html")
    # Latents of other channels can be shown, and so diagnosed.
    diagnoses = (
        (("diagnose", "out", "--reference", factory), "`tempoquant evaluate` judges other samples"),
        (("bench", "fashion32", "--model", factory, "-o", "new", *report), "a diagnosis compares images"),
        (("quantize", factory, "-o", "new", *FEW, *report), "`tempoquant evaluate` judges other samples"),
    )
    for args, said in (
        *(diagnoses if name != "latent" else ()),
        (("evaluate", "out", "--reference", factory, "--require", "psnr>=20"), "requirement psnr>=20: samples of ("),
        (
            ("evaluate", "out", "--reference", factory, "--metrics", "fd", "--extractor", "fashion32-cnn"),
            "and no images (1 or 3, height, width): metrics of sets of images",
        ),
    ):
        assert said in refused(*args)


def test_a_reference_of_another_shape_is_refused_before_any_work(run, refused, monkeypatch):  # noqa: F811
    assert run("quantize", "mine.py:make", "-o", "out", *FEW)[0] == 0
    Path("shaped.py").write_text(SHAPED)
    monkeypatch.setattr("tempoquant.evaluation.trajectory._check_projections", None)
    said = refused("evaluate", "out", "--denoiser", "mine.py:make", "--reference", "shaped.py:latent")
    assert "samples are (1, 16, 16) in out and (4, 16, 16) in shaped.py:latent" in said


@pytest.mark.parametrize("name", ["g.jpg", "g.JPEG", "g.gif", "g.tiff", "g.webp"])
def test_other_endings_of_images_are_refused(refused, name, monkeypatch):  # noqa: F811
    monkeypatch.setattr("tempoquant.cli.generate.open_model", None)
    said = refused("generate", "mine.py:make", "-n", "1", "-o", name)
    assert f"{name}: samples are written to a .png" in said and ".npy" in said and "a folder" in said


def test_images_are_written_as_an_array_too(run):  # noqa: F811
    assert run("generate", "mine.py:make", "-n", "2", "--steps", "4", "-o", "x.npy")[0] == 0
    drawn = np.load("x.npy")
    # As they are: this model does not clip.
    assert drawn.shape == (2, 1, 16, 16) and abs(drawn).max() > 1


def test_a_reference_outside_its_range_is_said_once(run):  # noqa: F811
    assert run("quantize", "mine.py:make", "-o", "out", *FEW)[0] == 0
    pair = ("out", "--reference", "mine.py:make", "-n", "2")
    code, out, err = run("evaluate", *pair, "--noise-samples", "1", "--json", "e.json")
    found = json.loads(Path("e.json").read_text())
    drawn = resolve("mine.py:make").generate(2, steps=4, seed=1)
    own = float(drawn.max() - drawn.min())
    assert code == 0 and own > 4 and found["data_range"] == pytest.approx(own)
    assert f"data range {own:.3g}" in out
    (line,) = [line for line in err.splitlines() if "warning" in line]
    assert "outside [-1, 1]" in line and "clip_sample" in line and f"{own:.3g}" in line
    ours = load("out", denoiser=resolve("mine.py:make").denoiser).model.generate(2, steps=4, seed=1)
    error = (drawn - ours).double().flatten(1).square().mean(1).numpy()
    assert found["psnr"]["per_image"] == pytest.approx((10 * np.log10(own**2 / error)).tolist(), rel=1e-6)
    code, _, err = run("diagnose", *pair, "--ranking-samples", "0")
    facts = json.loads(Path("out/diagnosis/diagnosis.json").read_text())["facts"]
    assert code == 0 and err.count("outside [-1, 1]") == 1 and facts["data_range"] == pytest.approx(own)
    assert run("report", "out", "-o", "r.html")[0] == 0
    assert f"relative to their own data range, {own:.3g}" in Path("r.html").read_text()
