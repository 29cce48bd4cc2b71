"""From a quantized folder to a page, a policy and a gate, as a user types it."""

import json
from pathlib import Path

import pytest
import yaml
from test_cli import file, refused, run  # noqa: F401

from tempoquant import Diagnosis, load
from tempoquant.errors import FormatError
from tempoquant.pipelines import resolve
from tempoquant.recipe import Recipe

QUANTIZE = ("quantize", "mine.py:make", "--method", "rtn", "--samples", "2", "--steps", "4")
DIAGNOSE = ("diagnose", "out", "--reference", "mine.py:make", "-n", "2", "--ranking-samples", "1")


@pytest.fixture
def quantized(run):  # noqa: F811
    """A quantized folder ``out``."""
    assert run(*QUANTIZE, "-w", "3", "-o", "out")[0] == 0


def test_diagnose_then_keep_the_costliest_layers(run, quantized):  # noqa: F811
    code, out, _ = run(*DIAGNOSE, "--keep", "1", "--json", "d.json")
    found, short = Diagnosis.load("out/diagnosis"), json.loads(Path("d.json").read_text())
    assert code == 0 and found.culprits[0].name in out and "temporal cosine" in out
    assert short["policy"] == list(found.policy) and short["quantized"]["name"] == "rtn W3A8"
    assert yaml.safe_load(Path("out/diagnosis/policy.yaml").read_text()) == {"policy": short["policy"]}
    # The folder still loads, with the diagnosis inside it.
    load("out", denoiser=resolve("mine.py:make").denoiser, verify=True)
    assert run(*QUANTIZE, "-w", "3", "-o", "better", "--policy", "out/diagnosis/policy.yaml")[0] == 0
    config = json.loads(Path("better/denoiser/config.json").read_text())["quantization_config"]
    recipe = Recipe.parse(config["recipe"])
    assert recipe.policy[-1].match == found.culprits[0].name
    assert config["layers"][found.culprits[0].name]["bits"] == 8
    code, out, _ = run("report", "out", "-o", "r.html")
    assert code == 0 and "out/diagnosis" not in out and Path("r.html").stat().st_size > 10_000


def test_a_report_with_the_model(run, file):  # noqa: F811
    assert run(*QUANTIZE, "-o", "new", "--report", "r.md")[0] == 0
    assert "rtn W4A8" in Path("r.md").read_text() and Path("r_files/samples.png").is_file()


def test_a_damaged_diagnosis_is_refused_in_one_line(run, refused, quantized):  # noqa: F811
    assert run(*DIAGNOSE, "--ranking-samples", "0")[0] == 0
    path = Path("out/diagnosis/diagnosis.json")
    plain = json.loads(path.read_text())
    plain["facts"]["quantized"]["size"]["ratio"] = float("nan")
    path.write_text(json.dumps(plain))
    for page in ("r.html", "r.md"):
        assert "diagnosis.json: facts.quantized.size.ratio = nan" in refused("report", "out", "-o", page)


def test_a_gate(run, quantized, capfd):  # noqa: F811
    pair = ("evaluate", "out", "--reference", "mine.py:make", "-n", "2", "--noise-samples", "1")
    code, out, _ = run(*pair, "--require", "psnr>=200,temporal_cosine>=0.5", "--json", "e.json")
    found = json.loads(Path("e.json").read_text())
    missed, met = found["requirements"]
    assert code == 1 and f"missed by {missed['by']:.6g}" in out and (missed["met"], met["met"]) == (False, True)
    assert missed["by"] == pytest.approx(200 - found["psnr"]["mean"])
    model = load("out", denoiser=resolve("mine.py:make").denoiser, verify=True)
    told = capfd.readouterr().out
    assert "psnr>=200: missed by" in told and "temporal_cosine>=0.5: met" in told and "recorded hashes" in told
    assert model.facts["evaluation"]["requirements"] == found["requirements"]
    assert run(*pair, "--require", "psnr>=1")[0] == 0
    capfd.readouterr()
    load("out", denoiser=resolve("mine.py:make").denoiser, verify=True)
    assert "psnr>=1: met" in capfd.readouterr().out
    Path("out/tempoquant.json").unlink()
    with pytest.raises(FormatError, match="nothing to verify it by"):
        load("out", denoiser=resolve("mine.py:make").denoiser, verify=True)
    code, _, err = run(*pair, "--require", "psnr>=1")
    assert code == 2 and "has no tempoquant.json to keep the outcome" in err


def test_refusals(refused, quantized, monkeypatch):  # noqa: F811
    monkeypatch.setattr("tempoquant.diagnosis.diagnosing.record", None)
    monkeypatch.setattr("tempoquant.api.run_job", None)
    Path("there.html").touch()
    Path("bad.yaml").write_text("method: rtn\n")
    Path("typo.yaml").write_text("policy:\n- {match: first, weight_bit: 8}\n")
    Path("full").mkdir()
    Path("full/x").touch()
    again = (*QUANTIZE, "-o", "new")
    for args, said in (
        ((*DIAGNOSE, "-o", "full"), "full exists"),
        ((*DIAGNOSE, "-o", "full", "--overwrite"), "not written by tempoquant"),
        (("diagnose", "mine.py:make", "--reference", "mine.py:make"), "give -o DIR"),
        (("report", "out"), "make one with `tempoquant diagnose out --reference small`"),
        (("report", "out", "-o", "there.html"), "there.html exists"),
        ((*again, "--report", "there.html"), "there.html exists"),
        ((*again, "--policy", "bad.yaml"), "must hold one entry, policy"),
        ((*again, "--policy", "typo.yaml"), "policy.0.weight_bit"),
        ((*again, "--policy", "none.yaml"), "cannot be read"),
        (("evaluate", "out", "--reference", "mine.py:make", "--require", "psn>=1"), "did you mean psnr"),
    ):
        assert said in refused(*args), args
