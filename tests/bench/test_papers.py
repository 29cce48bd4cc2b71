"""The papers' experiments from end to end, on tiny random twins of their models with everything real around them."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from corners import Corners, pictures
from tempoquant.bench import built_in, load_experiment
from tempoquant.evaluation import EXTRACTORS
from twins import TWINS, tiny_clip

pytest.importorskip("transformers")

SHRUNK = (
    "steps=4",
    "calibration={samples: 2, rows: 8, rows_per_step: 2}",
    "evaluation={images: 2, noise_samples: 2, batch_size: 2}",
)
PIXELS = {"cifar10-ddim": 16, "lsun-churches": 128, "lsun-churches-dpm": 128, "lsun-churches-tdq": 128}
PIXELS["stable-diffusion-coco"] = 64
CONDITIONAL = ("imagenet", "imagenet-tdq", "stable-diffusion-coco")


@pytest.fixture
def twin(place, monkeypatch):
    """What makes a twin's folder, real images of its size and prompts; its command line follows."""
    monkeypatch.setitem(EXTRACTORS, "corners", lambda weights, device: Corners())
    monkeypatch.setenv("XDG_CACHE_HOME", str(place / "cache"))

    def make(name: str) -> list[str]:
        pipe = TWINS[name](place / "made")
        pipe.set_progress_bar_config(disable=True)
        pipe.save_pretrained("twin")
        np.savez("real.npz", arr_0=pictures(24, channels=3, size=PIXELS.get(name, 32)).numpy())
        Path("captions.txt").write_text("a b\nc d e\nf g\nh\n")
        metrics = "{features: corners, metrics: [fd, sfd, is, kid, pr], reference: real.npz, samples: 10}"
        if name.startswith("stable"):
            tiny_clip(place / "clip")
            metrics = metrics.replace("pr]", "pr, clip], clip: clip")
        entries = [*SHRUNK, f"evaluation.distribution={metrics}"]
        prompts = ["--prompts", "captions.txt"] if name.startswith("stable") else []
        changes = [part for entry in entries for part in ("--set", entry)]
        return ["bench", name, "--model", "twin", "-o", "out", *prompts, *changes]

    yield make
    shutil.rmtree(place / "out", ignore_errors=True)


def checked(name: str, expected: int) -> list[dict[str, Any]]:
    """The records of ``out``, each of them whole; its tables hold the published numbers."""
    records = [json.loads(line) for line in Path("out/results.jsonl").read_text().splitlines()]
    experiment = load_experiment(name)
    assert len(records) == expected
    for record in records:
        names = {"FD-corners", "sFD-corners", "IS-corners", "KD-corners", "precision-corners", "recall-corners"}
        names |= {"CLIP score"} if name.startswith("stable") else set()
        assert record["distribution"].keys() == names
        assert all(np.isfinite(value) for value in record["distribution"].values())
        assert record["recipe"]["calibration"]["sampler"] == experiment.sampler
        psnr = record["paired"]["psnr"]["mean"]
        # Sums of floats depend on how weights lie in memory.
        assert psnr is None or (psnr > 100 if record["bits"] == "W32A32" else np.isfinite(psnr))
    table = Path("out/table.md").read_text()
    assert all(f"{metric} (published)" in table for metric in experiment.targets[0].metrics)
    assert "10 samples against real.npz" in table
    return records


@pytest.mark.parametrize(
    "name", ["cifar10-ddim", pytest.param("imagenet", marks=pytest.mark.slow), "stable-diffusion-coco"]
)
def test_an_experiment_runs_on_its_twin(name, twin, run):
    code, out, err = run(*twin(name), "--methods", "rtn", "--bits", "W4A8")
    assert code == 0 and "out: 1 runs" in out, err
    assert checked(name, 1)[0]["paired"]["sqnr"]["db"] > 0
    assert (name in CONDITIONAL) == ("guidance" in Path("out/table.md").read_text())


def test_full_precision_stands_beside_its_published_numbers(twin, run):
    code, _, err = run(*twin("cifar10-ddim"), "--methods", "full precision")
    assert code == 0, err
    assert checked("cifar10-ddim", 1)[0]["distribution"]["FD-corners"] > 0
    rows = [line for line in Path("out/table.md").read_text().splitlines() if line.startswith("| full precision |")]
    assert len(rows) == 1 and " 9.04 | 4.23 " in rows[0]


@pytest.mark.slow
@pytest.mark.parametrize("name", TWINS)
def test_every_method_of_an_experiment_runs_on_its_twin(name, twin, run):
    experiment = load_experiment(name)
    bits = experiment.runs[-1].bits[-1]
    code, _, err = run(*twin(name), "--bits", bits)
    assert code == 0, err
    checked(name, sum(bits in spec.bits for spec in experiment.runs))


def test_every_paper_has_a_twin():
    assert set(TWINS) == {name for name in built_in() if load_experiment(name).targets}
