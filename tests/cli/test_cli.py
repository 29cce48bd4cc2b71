"""The command line as a user meets it: one line for what is wrong, nothing left behind, and results that are used."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from tempoquant.cli import app, main

USER_FILE = """
import torch
from diffusers import DDIMScheduler
from torch import nn

from tempoquant import Denoiser


class Small(nn.Module):
    broken_below = -1

    def __init__(self):
        super().__init__()
        self.time_in, self.time_out = nn.Linear(4, 8), nn.Linear(8, 8)
        self.first, self.last = nn.Conv2d(1, 8, 3, padding=1), nn.Conv2d(8, 1, 3, padding=1)

    def forward(self, sample, timestep):
        angle = timestep.float()[:, None] / torch.tensor([1.0, 100.0])
        emb = self.time_out(nn.functional.silu(self.time_in(torch.cat([angle.sin(), angle.cos()], 1))))
        out = self.last(nn.functional.silu(self.first(sample) + emb[:, :, None, None]))
        return torch.where(timestep[:, None, None, None] < self.broken_below, float("nan"), out)


def make():
    torch.manual_seed(0)
    scheduler = DDIMScheduler(num_train_timesteps=100, clip_sample=False)
    return Denoiser(Small().eval(), scheduler, (1, 16, 16), name="small")


def broken():
    made = make()
    made.module.broken_below = 30
    return made


def wrong():
    return 3


def failing():
    raise ValueError("no such file\\nsecond line")
"""
FEW = ("--samples", "2", "--steps", "4")


@pytest.fixture
def file(tmp_path, monkeypatch) -> str:
    """A user's own file, in a working folder that has nothing else."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.py").write_text(USER_FILE)
    return "mine.py"


@pytest.fixture
def run(file, monkeypatch, capfd):
    """Run a command line: its exit code, stdout and stderr."""

    def call(*args: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["tempoquant", *map(str, args)])
        with pytest.raises(SystemExit) as ended:
            main()
        out, err = capfd.readouterr()
        return ended.value.code, out, err

    return call


@pytest.fixture
def refused(run):
    """Run a command line that must fail on its input: exit code 2, one line, nothing written."""

    def call(*args: str) -> str:
        before = sorted(Path().rglob("*"))
        code, out, err = run(*args)
        lines = [line for line in err.splitlines() if "ETA" not in line]
        assert (code, out, len(lines)) == (2, "", 1), (code, out, err)
        assert lines[0].startswith("tempoquant: ") and "Traceback" not in err
        assert [p for p in sorted(Path().rglob("*")) if "__pycache__" not in p.parts] == before
        return lines[0]

    return call


BAD_QUANTIZE = {
    "model": (("fashion3",), "did you mean fashion32"),
    "hub": (("no-such-user/no-such-model",), "no folder 'no-such-user/no-such-model' here"),
    "file": (("none.py:make",), "no such file: none.py"),
    "factory": (("mine.py:mak",), "has no function 'mak'"),
    "factory's result": (("mine.py:wrong",), "returned int"),
    "factory's error": (("mine.py:failing",), "ValueError: no such file"),
    "method": (("mine.py:make", "--method", "tfmq"), "did you mean tfmq-dm"),
    "sampler": (("mine.py:make", "--sampler", "dddim"), "did you mean ddim"),
    "effort": (("mine.py:make", "--effort", "slow"), "fast"),
    "reading": (("mine.py:make", "--reading", "code"), "valid are paper, released"),
    "reading of rtn": (("mine.py:make", "--method", "rtn", "--reading", "released"), "valid are paper"),
    "weight bits": (("mine.py:make", "-w", "1"), "bits = 1"),
    "activation bits": (("mine.py:make", "-a", "9"), "bits = 9"),
    "negative bits": (("mine.py:make", "-w", "-4"), "bits = -4"),
    "no samples": (("mine.py:make", "--samples", "0"), "samples"),
    "no steps": (("mine.py:make", "--steps", "0"), "steps"),
    "steps": (("mine.py:make", "--steps", "101"), "1 to 100"),
    "eta": (("mine.py:make", "--eta", "2"), "eta"),
    "eta of another sampler": (("mine.py:make", "--eta", "0.5", "--sampler", "plms"), "needs the ddim sampler"),
    "correction": (("mine.py:make", "--correction", "ptq"), "did you mean ptqd"),
    "step bits": (("mine.py:make", "--step-bits", "4;8"), "'4;8' is no list"),
    "step bits of none": (("mine.py:make", "--step-bits", "4,12"), "correction.step_bits"),
    "step bits of floats": (("mine.py:make", "-a", "32", "--step-bits", "4,8"), "activations.bits is 32"),
    "bits in words": (("mine.py:make", "-w", "four"), "'-w'"),
    "option": (("mine.py:make", "--wieghts", "4"), "--wieghts"),
    "recipe file": (("mine.py:make", "--recipe", "none.yaml"), "none.yaml"),
    "json folder": (("mine.py:make", "--json", "no/such.json"), "no is no folder"),
}


@pytest.mark.parametrize(("args", "said"), BAD_QUANTIZE.values(), ids=BAD_QUANTIZE)
def test_bad_input_to_quantize(refused, args, said):
    assert said in refused("quantize", *args, "-o", "out")


def test_bad_places(refused, file):
    assert "no is no folder" in refused("quantize", "mine.py:make", "-o", "no/out")
    Path("out").mkdir()
    Path("out/mine.txt").write_text("mine")
    assert "out exists" in refused("quantize", "mine.py:make", "-o", "out")
    assert "not written by tempoquant" in refused("quantize", "mine.py:make", "-o", "out", "--overwrite")
    assert "exists" in refused("quantize", "mine.py:make", "-o", ".")
    refused("quantize", "mine.py:make", "-o", ".", "--overwrite")
    assert "not a diffusers folder" in refused("quantize", "out", "-o", "new")
    Path("grid.png").touch()
    assert "grid.png exists" in refused("generate", "fashion32", "-n", "1")
    assert "not a diffusers folder" in refused("generate", "out", "-o", "new.png")
    assert "is not a quantized folder" in refused("evaluate", "mine.py:make", "--reference", "mine.py:make")


def test_bad_recipes(refused, file):
    for text, said in (
        ("method: rtn\nwieghts: {bits: 4}", "wieghts"),
        ("method: rtn\nweights: {bits: 1}", "weights.bits = 1"),
        ("[1, 2]", "no mapping"),
        ("a: b: c", "cannot be read"),
        ("method: rtn\npolicy: [{match: nothing*, weight_bits: 8}]", "nothing*"),
        ("method: rtn\npolicy: [{match: '@firts', weight_bits: 8}]", "@first"),
    ):
        Path("recipe.yaml").write_text(text)
        assert said in refused("quantize", "mine.py:make", "--recipe", "recipe.yaml", "-o", "out")


@pytest.mark.parametrize(
    "args",
    [(), ("-n", "0"), ("-n", "-1"), ("--steps", "0"), ("--steps", "101"), ("--batch-size", "0"), ("--engine", "gpu")],
)
def test_bad_input_to_generate(refused, args):
    if not args:
        assert "model" in refused("generate")
    else:
        refused("generate", "mine.py:make", "-o", "new.png", *args)


def test_a_denoiser_that_breaks_is_named_with_its_step(refused):
    assert "not finite" in refused("quantize", "mine.py:broken", "-o", "out", *FEW)
    # Steps are 75, 50, 25, 0: the third call, counted from 0.
    assert "at step 2 (t = 25)" in refused("generate", "mine.py:broken", "-n", "1", "--steps", "4", "-o", "new.png")


def test_a_bare_denoiser_from_end_to_end(run, refused):
    code, out, err = run("quantize", "mine.py:make", "-o", "out", *FEW, "--json", "q.json")
    assert code == 0 and "out: tfmq-dm W4A8" in out and "Traceback" not in err and "warning" not in err
    facts = json.loads(Path("q.json").read_text())
    assert facts["recipe"]["weights"]["bits"] == 4 and facts["size"]["ratio"] > 1 and "timings" in facts
    files = [".tempoquant-output.json", "denoiser", "scheduler", "tempoquant.json"]
    assert sorted(p.name for p in Path("out").iterdir()) == files
    assert "--denoiser" in refused("generate", "out", "-n", "2", "-o", "a.png")
    assert run("generate", "out", "-n", "2", "--denoiser", "mine.py:make", "-o", "a.png")[0] == 0
    assert run("generate", "out", "-n", "2", "--denoiser", "mine.py:make", "-o", "images")[0] == 0
    assert Path("a.png").read_bytes().startswith(b"\x89PNG") and len(list(Path("images").glob("*.png"))) == 2
    refused("generate", "out", "-n", "2", "--denoiser", "mine.py:make", "-o", "a.png")
    code, out, err = run(
        "evaluate", "out", "--reference", "mine.py:make", "-n", "2", "--noise-samples", "2", "--json", "e.json"
    )
    assert code == 0 and "PSNR" in out and "SQNR" in out
    found = json.loads(Path("e.json").read_text())
    assert 0 < found["sqnr"]["db"] < 60 and found["steps"] == 4 and found["cosine"]["mean"] > 0.9
    assert found["size"]["total"] == facts["size"]["total"]
    refused("evaluate", "out", "--reference", "mine.py:make", "-n", "2", "--json", "e.json")
    refused("evaluate", "out", "--reference", "fashion3", "-n", "2", "--denoiser", "mine.py:make")
    refused("evaluate", "out", "--reference", "mine.py:make", "-n", "2", "--noise-samples", "0")


def test_a_correction_on_top_of_a_method(run):
    for out, flags in {"plain": (), "ptqd": ("--correction", "ptqd", "--step-bits", "8,4")}.items():
        assert (
            run("quantize", "mine.py:make", "-o", out, "--method", "rtn", *FEW, *flags, "--json", f"{out}.json")[0] == 0
        )
        assert run("generate", out, "-n", "2", "--denoiser", "mine.py:make", "-o", f"{out}.png")[0] == 0
    found = json.loads(Path("ptqd.json").read_text())
    assert found["recipe"]["method"] == "rtn" and found["recipe"]["correction"]["step_bits"] == [4, 8]
    assert len(found["correction"]["k"]) == len(found["correction"]["steps"]["bits"]) == 4
    assert json.loads(Path("plain.json").read_text())["correction"] is None
    assert Path("plain.png").read_bytes() != Path("ptqd.png").read_bytes()


def test_a_damaged_folder(run, refused):
    assert run("quantize", "mine.py:make", "-o", "out", "--method", "rtn", *FEW)[0] == 0
    weights = next(Path("out/denoiser").glob("*.safetensors"))
    weights.write_bytes(weights.read_bytes()[:-1] + b"!")
    assert "differs from its recorded hash" in refused("generate", "out", "--denoiser", "mine.py:make", "-o", "a.png")
    Path("out/tempoquant.json").unlink()
    Path("out/denoiser/config.json").write_bytes(b"\xff\x00quantization_config")
    refused("generate", "out", "--denoiser", "mine.py:make", "-o", "a.png")


def test_interrupting_is_one_line(run, monkeypatch):
    def interrupted(*args, **kwargs):
        raise KeyboardInterrupt

    monkeypatch.setattr("tempoquant.api.run_job", interrupted)
    assert run("quantize", "mine.py:make", "-o", "out") == (130, "", "tempoquant: interrupted\n")


def test_methods_are_listed(run, refused):
    code, out, err = run("methods", "--json", "m.json")
    assert (code, err) == (0, "") and "tfmq-dm" in out
    assert {m["name"] for m in json.loads(Path("m.json").read_text())} >= {"rtn", "tfmq-dm"}
    refused("methods", "--json", "m.json")
    assert "No such command" in refused("method")


def commands() -> list[str]:
    import tempoquant.cli.commands  # noqa: F401

    return [c.name for c in app.registered_commands]


@pytest.mark.parametrize("command", commands())
def test_every_help_shows_an_example(run, command):
    code, out, err = run(command, "--help")
    assert (code, err) == (0, "") and f"Example: tempoquant {command}" in out


def test_no_arguments_is_help(run):
    code, out, _ = run()
    assert code == 0 and all(command in out for command in commands())


def test_the_process_itself(file):
    code = "from tempoquant.cli import main; main()"
    command = [sys.executable, "-c", code, "quantize", "mine.py:make", "-w", "1", "-o", "out"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 2 and done.stdout == ""
    assert done.stderr.startswith("tempoquant: recipe: weights.bits = 1") and done.stderr.count("\n") == 1
    assert torch.get_num_threads() == 1


def test_a_quantized_folder_is_not_quantized_again(run, refused):
    from tiny import unet_pipeline

    unet_pipeline().save_pretrained("model")
    assert run("quantize", "model", "-o", "out", "--method", "rtn", *FEW)[0] == 0
    assert run("generate", "out", "-n", "1", "-o", "a.png")[0] == 0
    assert "quantized already" in refused("quantize", "out", "-o", "again")
