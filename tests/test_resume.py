"""A run that is interrupted anywhere and continued gives the bytes of one that was not."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch

import tempoquant
from tempoquant.errors import InputError
from tempoquant.progress import Advance
from tempoquant.reconstruction import tuning
from tiny import bare_denoiser, small_recipe, unet_pipeline

WEIGHTS = Path("unet") / "diffusion_pytorch_model.safetensors"
RECIPE = {"effort": "balanced", "calibration": {"samples": 20, "steps": 3, "rows": 4}}


class Interrupted(BaseException):
    """Like a keyboard interrupt: no error that anything may handle."""


class Stops:
    """Progress that ends the run after ``parts`` parts of a stage; with 0, when the stage opens.

    Attributes:
        seen: parts by stage.
    """

    def __init__(self, stage: str = "", parts: int = 0):
        self.at, self.parts = stage, parts
        self.seen: dict[str, int] = {}

    @contextmanager
    def stage(self, name: str, total: int) -> Iterator[Advance]:
        self.seen[name] = 0
        if (name, 0) == (self.at, self.parts):
            raise Interrupted

        def advance(parts: int) -> None:
            self.seen[name] += parts
            if name == self.at and parts and self.seen[name] >= self.parts > 0:
                raise Interrupted

        yield advance


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """An uninterrupted run: its folder, and how many parts each stage had."""
    with pytest.MonkeyPatch.context() as patch:
        shorten(patch)
        progress = Stops()
        out = tmp_path_factory.mktemp("whole") / "out"
        tempoquant.quantize(unet_pipeline(), small_recipe(**RECIPE), out=out, progress=progress)
    return out, progress.seen


def shorten(patch: pytest.MonkeyPatch) -> None:
    from tempoquant.reconstruction.effort import EFFORTS, Effort, StepEffort

    steps = StepEffort(iterations=2, batch=4, lr=2e-2)
    short = Effort(compensate=True, iterations=2, batch=4, temporal_iterations=4, lr=1e-2, steps=steps)
    patch.setitem(EFFORTS, "balanced", short)


@pytest.fixture
def brief_balanced(monkeypatch):
    shorten(monkeypatch)


def same_bytes(a: Path, b: Path) -> None:
    names = [sorted(p.relative_to(f).as_posix() for p in f.rglob("*") if p.is_file()) for f in (a, b)]
    assert names[0] == names[1]
    for name in names[0]:
        if name != "tempoquant.json":
            assert (a / name).read_bytes() == (b / name).read_bytes(), name
    facts = [json.loads((f / "tempoquant.json").read_text()) for f in (a, b)]
    for fact in facts:
        fact.pop("timings")
        fact.pop("cpu_timings")
    assert facts[0] == facts[1]


def interrupt(out: Path, stage: str, parts: int, **recipe: str) -> Stops:
    progress = Stops(stage, parts)
    with pytest.raises(Interrupted):
        chosen = small_recipe(**{**RECIPE, **recipe})
        tempoquant.quantize(unet_pipeline(), chosen, out=out, progress=progress)
    assert not out.exists()
    return progress


def test_stages_are_those_this_file_interrupts(whole):
    assert list(whole[1]) == ["recording trajectories", "temporal features (TIAR)", "units", "activation ranges"]
    assert whole[1]["recording trajectories"] == 60 and whole[1]["units"] > 5


@pytest.mark.usefixtures("brief_balanced")
def test_interrupted_at_every_unit_in_turn(whole, tmp_path):
    # One run, cut down again at each next unit: nothing that was finished is done twice.
    out, units = tmp_path / "out", whole[1]["units"]
    for unit in range(units + 1):
        interrupt(out, "units", unit)
        assert len(list((tmp_path / "out.partial" / "units").glob("*.safetensors"))) == unit + 1
    before = {p: p.stat().st_mtime_ns for p in (tmp_path / "out.partial").rglob("*.safetensors")}
    assert len(before) == units + 1
    tempoquant.quantize(unet_pipeline(), small_recipe(**RECIPE), out=out, resume=True)
    same_bytes(out, whole[0])
    assert [p.name for p in tmp_path.iterdir()] == ["out"]


MOMENTS = [
    ("recording trajectories", 0),
    ("recording trajectories", 48),
    ("recording trajectories", 60),
    ("temporal features (TIAR)", 0),
    ("temporal features (TIAR)", 2),
    ("units", 4),
    ("activation ranges", 0),
    ("activation ranges", 3),
]


@pytest.mark.usefixtures("brief_balanced")
@pytest.mark.parametrize(("stage", "parts"), MOMENTS)
def test_interrupted_once(stage, parts, whole, tmp_path):
    interrupt(tmp_path / "out", stage, parts)
    # The next run of the same job continues without being asked to, also where it may replace an output.
    tempoquant.quantize(unet_pipeline(), small_recipe(**RECIPE), out=tmp_path / "out", overwrite=bool(parts))
    same_bytes(tmp_path / "out", whole[0])


@pytest.mark.usefixtures("brief_balanced")
@pytest.mark.parametrize("method", ["brecq", "tdq-ptq", "s-2"])
def test_interrupted_while_activation_steps_learn(method, tmp_path):
    tempoquant.quantize(unet_pipeline(), small_recipe(**{**RECIPE, "method": method}), out=tmp_path / "whole")
    out, finished = tmp_path / "out", tmp_path / "out.partial" / "steps"
    for unit in (0, 3, 4, 12):
        interrupt(out, "activation steps", unit, method=method)
        # The unit at which the run ended is finished, and later ones are not begun.
        assert len(list(finished.glob("*.safetensors"))) == unit
    kept = {path: path.stat().st_mtime_ns for path in finished.glob("*.safetensors")}
    torch.rand(3)
    progress = Stops("activation steps", 14)
    with pytest.raises(Interrupted):
        recipe = small_recipe(**{**RECIPE, "method": method})
        tempoquant.quantize(unet_pipeline(), recipe, out=out, progress=progress, resume=True)
    assert all(path.stat().st_mtime_ns == stamp for path, stamp in kept.items())
    tempoquant.quantize(unet_pipeline(), recipe, out=out, resume=True)
    same_bytes(out, tmp_path / "whole")


@pytest.mark.usefixtures("brief_balanced")
def test_interrupted_while_everything_is_tuned(tmp_path, monkeypatch):
    monkeypatch.setattr(tuning, "SAVE_EVERY", 5)
    changes = {**RECIPE, "method": "tempo", "tuning": {"iterations": 13, "batch": 16}}
    tempoquant.quantize(unet_pipeline(), small_recipe(**changes), out=tmp_path / "whole")
    out = tmp_path / "out"
    for parts in (0, 3, 7, 12):
        interrupt(out, "tuning", parts, **changes)
        # The state of every fifth iteration is kept.
        kept = tmp_path / "out.partial" / "tuning" / "tuning.safetensors"
        assert kept.exists() == (parts > 5)
    progress = Stops()
    tempoquant.quantize(unet_pipeline(), small_recipe(**changes), out=out, progress=progress, resume=True)
    same_bytes(out, tmp_path / "whole")


@pytest.mark.usefixtures("brief_balanced")
def test_random_numbers_drawn_before_do_not_matter(whole, tmp_path):
    torch.manual_seed(99)
    torch.rand(7)
    interrupt(tmp_path / "out", "units", 2)
    torch.rand(3)
    tempoquant.quantize(unet_pipeline(), small_recipe(**RECIPE), out=tmp_path / "out", resume=True)
    same_bytes(tmp_path / "out", whole[0])


def one_line(caught: pytest.ExceptionInfo) -> str:
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.usefixtures("brief_balanced")
def test_another_job_is_not_resumed(tmp_path):
    out = tmp_path / "out"
    interrupt(out, "units", 2)
    others = [
        ({"seed": 1}, "seed"),
        ({"weights": 3}, "weights.bits"),
        ({"activations": 6}, "activations.bits"),
        ({"method": "rtn"}, "method"),
    ]
    for change, named in others:
        with pytest.raises(InputError) as caught:
            tempoquant.quantize(unet_pipeline(), small_recipe(**{**RECIPE, **change}), out=out, resume=True)
        assert named in one_line(caught)
    with pytest.raises(InputError) as caught:
        tempoquant.quantize(unet_pipeline(seed=1), small_recipe(**RECIPE), out=out, resume=True)
    assert "model" in one_line(caught)
    with pytest.raises(InputError) as caught:
        tempoquant.quantize(unet_pipeline(), small_recipe(**{**RECIPE, "seed": 1}), out=out)
    assert "--overwrite" in one_line(caught)
    # The work survives all of these.
    assert len(list((tmp_path / "out.partial" / "units").glob("*.safetensors"))) == 3
    tempoquant.quantize(unet_pipeline(), small_recipe(**{**RECIPE, "seed": 1}), out=out, overwrite=True)
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


@pytest.mark.usefixtures("brief_balanced")
def test_a_torn_marker_is_named(tmp_path):
    interrupt(tmp_path / "out", "units", 1)
    for name in ("job.json", "units/units.json", "recording/manifest.json"):
        marker = tmp_path / "out.partial" / name
        whole = marker.read_text()
        marker.write_text(whole[:5])
        with pytest.raises(tempoquant.errors.TempoquantError) as caught:
            tempoquant.quantize(unet_pipeline(), small_recipe(**RECIPE), out=tmp_path / "out", resume=True)
        assert marker.name in one_line(caught)
        marker.write_text(whole)


def test_units_and_recordings_are_shared_only_with_equals(tmp_path):
    shared = {"units": tmp_path / "units", "recording": tmp_path / "recording"}
    model = bare_denoiser()
    first = tempoquant.quantize(model, small_recipe(activations=8), out=tmp_path / "a", **shared)
    stamps = {p: p.stat().st_mtime_ns for p in shared["units"].iterdir()}
    second = tempoquant.quantize(model, small_recipe(activations=6), out=tmp_path / "b", **shared)
    assert stamps == {p: p.stat().st_mtime_ns for p in shared["units"].iterdir()} and len(stamps) > 2
    weights = [dict(q.denoiser.module.named_parameters())["middle.weight"] for q in (first, second)]
    assert torch.equal(*weights)
    with pytest.raises(InputError) as caught:
        tempoquant.quantize(model, small_recipe(weights=3), out=tmp_path / "c", **shared)
    assert "units made with another weights" in one_line(caught)
    with pytest.raises(InputError) as caught:
        tempoquant.quantize(model, small_recipe(seed=1), out=tmp_path / "c", **shared)
    assert "another recording: seed" in one_line(caught)
    with pytest.raises(InputError) as caught:
        tempoquant.quantize(bare_denoiser(seed=1), small_recipe(), out=tmp_path / "c", **shared)
    assert "another recording: model" in one_line(caught)
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "cat.png").touch()
    with pytest.raises(InputError) as caught:
        tempoquant.quantize(model, small_recipe(), units=tmp_path / "photos")
    assert "cat.png" in one_line(caught)
    assert not list(tmp_path.glob("c*"))


@pytest.mark.slow
def test_a_killed_process_is_resumed(tmp_path):
    code = "from tempoquant.cli import main; main()"
    recipe = small_recipe(calibration={"steps": 3, "rows": 4})
    recipe.to_file(tmp_path / "recipe.yaml")
    options = ["--recipe", str(tmp_path / "recipe.yaml")]

    def command(out: str, *more: str) -> list[str]:
        return [sys.executable, "-c", code, "quantize", "fashion32", *options, "-o", str(tmp_path / out), *more]

    # Threads are part of the job, since they may change the last bits.
    run = {"env": os.environ | {"OMP_NUM_THREADS": "1"}, "stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    subprocess.run(command("whole"), check=True, **run)
    process = subprocess.Popen(command("out"), **run)
    units = tmp_path / "out.partial" / "units"
    deadline = time.monotonic() + 120
    while len(list(units.glob("*.safetensors"))) < 4 and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    assert not (tmp_path / "out").exists() and len(list(units.glob("*.safetensors"))) >= 4
    subprocess.run(command("out"), check=True, **run)
    same_bytes(tmp_path / "out", tmp_path / "whole")
