"""Sets of images on the command line: what is refused before any work, and what the JSON holds."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from test_cli import file, refused, run  # noqa: F401

from conditional_models import text_pipeline
from corners import Corners, pictures
from tempoquant import load
from tempoquant.cli.distribution import measure
from tempoquant.errors import InputError
from tempoquant.evaluation import EXTRACTORS, distribution_metrics, plan_metrics, save_images
from tempoquant.evaluation.sampled import check_sampled
from tempoquant.pipelines import resolve, to_images

PAIR = ("out", "--reference", "mine.py:make", "-n", "2", "--noise-samples", "1", "--distribution-samples", "20")


@pytest.fixture
def quantized(run, monkeypatch):  # noqa: F811
    """A quantized folder ``out`` that draws grey 16x16 images, and corners to measure them with."""
    monkeypatch.setitem(EXTRACTORS, "corners", lambda weights, device: Corners())
    monkeypatch.setenv("XDG_CACHE_HOME", str(Path("cache").absolute()))
    assert run("quantize", "mine.py:make", "-o", "out", "--method", "rtn", "--samples", "2", "--steps", "4")[0] == 0
    return load("out", denoiser=resolve("mine.py:make").denoiser)


def test_metrics_against_files(run, quantized):  # noqa: F811
    save_images(pictures(30, size=16), "real")
    args = ("--metrics", "fd,sfd,is,kid,pr", "--extractor", "corners", "--reference-images", "real")
    code, out, err = run("evaluate", *PAIR, *args, "--json", "e.json")
    # Sets are large enough, and what the untrained model draws is no image in [-1, 1].
    assert code == 0 and err.count("warning") == 1 and "samples of small reach from" in err
    found = json.loads(Path("e.json").read_text())
    part = found["distribution"]
    for name in ("FD-corners", "sFD-corners", "IS-corners", "KD-corners", "PR-corners", "20 images against 30"):
        assert name in out
    assert part["extractor"] == {"name": "corners", "sha256": "c0" * 32, "preprocessing": "none"}
    assert part["reference"]["source"] == "real" and part["reference"]["images"] == 30 and part["generated"] == 20
    drawn = to_images(quantized.model.generate(range(100_000, 100_020), steps=4, seed=1))
    wanted = measured(drawn, "real", ["fd", "sfd", "is", "kid", "pr"], seed=1)
    assert part.keys() == wanted.keys()
    for key in ("fd", "sfd", "is", "kid", "pr"):
        # Batches of another size are added in another order.
        for name, value in wanted[key].items():
            assert part[key][name] == (value if isinstance(value, str) else pytest.approx(value, rel=1e-9)), (key, name)
    assert len(list(Path("cache/tempoquant/statistics").iterdir())) == 1 and "psnr" in found


def measured(drawn, reference, metrics, **options):
    return distribution_metrics(drawn, reference, Corners(), metrics, **options)


def test_metrics_against_full_precision(run, quantized):  # noqa: F811
    code, _, _ = run("evaluate", *PAIR, "--metrics", "fd", "--extractor", "corners", "--json", "e.json")
    part = json.loads(Path("e.json").read_text())["distribution"]
    full, ours = (
        to_images(target.generate(range(100_000, 100_020), steps=4, seed=1))
        for target in (resolve("mine.py:make"), quantized.model)
    )
    assert code == 0 and part["fd"]["value"] == pytest.approx(measured(ours, full, ["fd"])["fd"]["value"], rel=1e-6)
    assert part["reference"] == {"source": "full precision, from the same noise", "images": 20, "sha256": None}
    assert not Path("cache").exists()


def test_refusals(refused, quantized, monkeypatch):  # noqa: F811
    monkeypatch.setattr("tempoquant.evaluation.trajectory._check_projections", None)
    save_images(pictures(3, size=8), "small")
    np.savez("stats.npz", mu=np.zeros(4), sigma=np.eye(4))
    corners = ("--extractor", "corners")
    for args, said in (
        (("--metrics", "fdd", *corners), "unknown metric 'fdd': did you mean"),
        (("--metrics", "fid", *corners), "fid is made of the published Inception weights"),
        (("--metrics", "fd"), "fd needs a feature extractor"),
        (("--metrics", "fd", "--extractor", "corner"), "unknown feature extractor 'corner': did you mean corners"),
        (("--metrics", "fd", "--extractor", "fashion32-cnn"), "are of grey 32x32 images, not (1, 16, 16)"),
        (("--metrics", "fd", *corners, "--reference-images", "small"), "holds 8x8x1 images and the generated ones are"),
        (("--metrics", "fd", *corners, "--reference-images", "none"), "none: no such file or folder"),
        (("--metrics", "fd", *corners, "--reference-images", "stats.npz"), "statistics of Inception features"),
        (("--metrics", "is", *corners, "--distribution-samples", "9"), "is needs at least 10 images, not 9"),
        (("--metrics", "clip"), "clip needs a CLIP model"),
        (corners, "--extractor is of use with --metrics"),
        (("--extractor-weights", "w.pth", "--metrics", "fd"), "--extractor-weights needs --extractor"),
    ):
        assert said in refused("evaluate", *PAIR, *args, "--json", "e.json")


class Words:
    """In the place of a CLIP model: the share of an image's prompt that is the letter a."""

    name, digest, preprocessing = "words", "f3" * 32, "none"

    def __call__(self, images, prompts):
        assert len(images) == len(prompts)
        return torch.tensor([prompt.count("a") / len(prompt) for prompt in prompts], dtype=torch.float64)


def test_prompts_stay_with_their_images(tmp_path, monkeypatch):
    monkeypatch.setattr("tempoquant.evaluation.plan.ClipScore", lambda model: Words())
    target = resolve(text_pipeline(tmp_path))
    conditioning = {"prompt": ["a a", "b c", "a b", "a", "a"], "guidance_scale": 2.0}
    plan = plan_metrics(["clip", "fd"], clip="words", extractor=Corners())
    check_sampled(plan, target, 5, conditioning)
    found = measure(plan, target, target, 5, conditioning=conditioning, seed=1, batch_size=2, steps=2)
    # Shares of the letter a: 2/3, 0, 1/3, 1, 1.
    assert found["clip"]["value"] == pytest.approx(0.6) and found["clip"]["generated"] == 5
    assert found["fd"]["value"] == pytest.approx(0, abs=1e-3)
    with pytest.raises(InputError, match="needs a prompt for each, and none are given"):
        check_sampled(plan, resolve("fashion32"), 5, None)
