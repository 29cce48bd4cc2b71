"""What the command line says about this machine."""

import json
import shutil
from pathlib import Path

import pytest
from test_cli import file, refused, run  # noqa: F401

import tempoquant
from tempoquant.kernels import compiled


def test_doctor_says_what_runs_here(run, refused, monkeypatch, tmp_path):  # noqa: F811
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr("tempoquant.kernels.integers_are_exact", lambda: False)
    monkeypatch.setattr("tempoquant.kernels.onednn.integers_are_exact", lambda: False)
    monkeypatch.setenv(compiled.COMPILER, "no-such-compiler")
    code, out, err = run("doctor", "--json", "d.json")
    assert (code, err) == (0, "") and "not exact" in out and "no-such-compiler" in out
    found = json.loads(Path("d.json").read_text())
    assert found["versions"]["tempoquant"] == tempoquant.__version__ and found["versions"]["torch"]
    assert found["processor"]["int8_exact"] is False and found["processor"]["threads"] == 1
    assert found["engines"] == dict.fromkeys(("auto", "integer", "onednn", "simulation"), "simulation")
    assert found["compiled"]["state"].startswith("none: there is no C compiler") and not found["compiled"]["library"]
    assert found["extras"].keys() == {"eval", "train", "openvino", "onnx"}
    monkeypatch.setattr("tempoquant.cli.doctor._version", lambda name: None)
    assert "openvino>=2026.0: pip install 'tempoquant[openvino]'" in run("doctor")[1]
    refused("doctor", "--json", "d.json")


@pytest.mark.skipif(shutil.which("cc") is None, reason="no C compiler")
def test_doctor_names_the_compiled_library(run, monkeypatch, tmp_path):  # noqa: F811
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    states = []
    for name in ("a.json", "b.json"):
        run("doctor", "--json", name)
        found = json.loads(Path(name).read_text())["compiled"]
        assert Path(found["library"]).parent == Path(found["cache"]) and Path(found["library"]).is_file()
        states.append(found["state"])
    assert states == ["built now", "found in the cache"]
