"""What needs no model imports no library that models need, and so answers at once."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tempoquant.cli import app

HEAVY = ("torch", "diffusers", "transformers", "peft", "accelerate", "matplotlib", "numpy", "safetensors", "PIL")
MOST_MODULES = 450
"""Of a start: about 330, most of them of Python, pydantic and typer; torch alone has more than a thousand."""
CALLS = """
import contextlib, io, json, sys
from tempoquant.cli import main

results = []
for args in json.load(sys.stdin):
    sys.argv, said = ["tempoquant", *args], io.StringIO()
    with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
        try:
            main()
        except SystemExit as ended:
            code = ended.code
    results.append([code, said.getvalue(), len(sys.modules), [name for name in HEAVY if name in sys.modules]])
json.dump(results, sys.stdout)
"""
FACTORY = "raise RuntimeError('a file of a model is imported')\n"


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> Path:
    """A folder with files that commands name: none of them can be loaded, since nothing may try."""
    folder = tmp_path_factory.mktemp("place")
    (folder / "mine.py").write_text(FACTORY)
    (folder / "there").mkdir()
    (folder / "there/mine.txt").touch()
    (folder / "out/unet").mkdir(parents=True)
    (folder / "out/unet/config.json").write_text('{"quantization_config": {}}')
    (folder / "there.png").touch()
    (folder / "there.json").touch()
    (folder / "rtn.yaml").write_text("method: rtn\n")
    (folder / "typo.yaml").write_text("method: rtn\nweights: {bit: 4}\n")
    return folder


def call(place: Path, *calls: tuple[str, ...]) -> list[tuple[int, str]]:
    """Exit codes and outputs of command lines, one after the other in a new process, which may import nothing heavy."""
    done = subprocess.run(
        [sys.executable, "-c", f"HEAVY = {HEAVY!r}\n{CALLS}"],
        cwd=place,
        input=json.dumps(calls),
        capture_output=True,
        text=True,
        check=True,
    )
    found = json.loads(done.stdout)
    for args, (_, _, modules, heavy) in zip(calls, found, strict=True):
        assert not heavy and modules < MOST_MODULES, (args, modules, heavy)
    return [(code, said) for code, said, _, _ in found]


@pytest.mark.parametrize("args", [("--help",), (), ("--version",), ("methods",), ("methods", "--json", "new.json")])
def test_help_and_methods(place, args):
    ((code, said),) = call(place, args)
    assert code == 0 and ("tfmq-dm" if "methods" in args else "tempoquant") in said.lower()


def test_help_of_every_command(place):
    import tempoquant.cli.commands  # noqa: F401

    names = [command.name or "" for command in app.registered_commands]
    assert len(names) == 13
    for code, said in call(place, *((name, "--help") for name in names)):
        assert code == 0 and "Example: tempoquant" in said


QUANTIZE = ("quantize", "fashion32", "-o", "new")
TRAIN = ("train", "fashion32", "-o", "new")
PAIR = ("out", "--reference", "fashion32")
REFUSALS = [
    ((*QUANTIZE, "-w", "x"), "'x'"),
    ((*QUANTIZE, "-w", "9"), "bits = 9 is not supported"),
    ((*QUANTIZE, "--samples", "0"), "calibration.samples = 0"),
    ((*QUANTIZE, "--method", "tfmqdm"), "did you mean tfmq-dm"),
    ((*QUANTIZE, "--method", "lsq"), "lsq trains"),
    ((*QUANTIZE, "--sampler", "dddim"), "did you mean ddim"),
    ((*QUANTIZE, "--recipe", "rtn.yaml", "-w", "4"), "--weights beside --recipe rtn.yaml"),
    ((*QUANTIZE, "--recipe", "typo.yaml"), "unknown entry 'bit': did you mean bits"),
    ((*QUANTIZE, "--freeze-labels", "1"), "--freeze-labels is of use with --freeze-schedule alone"),
    ((*QUANTIZE, "--prompts", "none.txt"), "none.txt"),
    ((*QUANTIZE, "--guidance", "-1"), "--guidance -1.0 is out of range"),
    ((*QUANTIZE, "--policy", "rtn.yaml"), "must hold one entry, policy"),
    ((*QUANTIZE, "--report", "r.txt"), "a report is a .html or a .md file"),
    ((*QUANTIZE, "--json", "there.json"), "there.json exists"),
    ((*QUANTIZE, "--recording", "there.json"), "there.json is no folder"),
    (("quantize", "fashion32", "-o", "there"), "there exists"),
    (("quantize", "fashion", "-o", "new"), "unknown model 'fashion': did you mean fashion32"),
    (("quantize", "none.py:make", "-o", "new"), "no such file: none.py"),
    (("quantize", "there", "-o", "new"), "there is not a diffusers folder"),
    ((*TRAIN, "--lr", "0"), "training.lr = 0.0"),
    ((*TRAIN, "--method", "rtn"), "rtn does not train"),
    ((*TRAIN, "--save-every", "-1"), "save every -1 steps"),
    (("train", "fashion32", "-o", "there"), "there exists"),
    (("generate", "fashion32", "-o", "there.png"), "there.png exists"),
    (("generate", "fashion32", "-o", "new.npy", "-n", "0"), "greater than or equal to 1"),
    (("generate", "fashion32", "-o", "new.npy", "--engine", "gpu"), "unknown engine 'gpu'"),
    (("generate", "fashion32", "-o", "new.npy", "--engine", "integer"), "--engine is for quantized folders"),
    (("generate", "out", "-o", "new.npy", "--denoiser", "mine.py:make"), "out holds a pipeline"),
    (("generate", "fashion32", "-o", "new.npy", "--classes", "a"), "--classes 'a'"),
    (("evaluate", *PAIR, "--metrics", "fdd"), "unknown metric 'fdd'"),
    (("evaluate", *PAIR, "--metrics", "fd", "--extractor", "cnn"), "unknown feature extractor 'cnn'"),
    (("evaluate", *PAIR, "--clip", "x"), "--clip is of use with --metrics alone"),
    (("evaluate", *PAIR, "--require", "psn>=1"), "did you mean psnr"),
    (("evaluate", *PAIR, "--require", "psnr>=1"), "out has no tempoquant.json"),
    (("evaluate", "fashion32", "--reference", "fashion32"), "is not a quantized folder"),
    (("diagnose", *PAIR, "-o", "there"), "there exists"),
    (("diagnose", *PAIR, "--ranking-samples", "0", "--keep", "3"), "--keep is of no use with --ranking-samples 0"),
    (("intervals", *PAIR, "-o", "new.jpg"), "new.jpg is no figure's name"),
    (("intervals", "none", "--reference", "fashion32", "-o", "new.png"), "'none' is no folder"),
    (("bake", "out", "-o", "there"), "there exists"),
    (("bake", "there", "-o", "new"), "there is no quantized folder"),
    (("bake", "out", "-o", "new", "--sampler", "x"), "unknown sampler 'x'"),
    (("export", "out", "-o", "new", "--to", "tflite"), "unknown export target 'tflite'"),
    (("export", "out", "-o", "there"), "there exists"),
    (("report", "out", "-o", "there.png"), "a report is a .html or a .md file"),
    (("demo", "-o", "there"), "there exists"),
    (("doctor", "--overwrite"), "--overwrite is of use with --json alone"),
    (("bench", "fashion3", "-o", "new"), "did you mean fashion32"),
    (("bench", "fashion32", "-o", "new", "--jobs", "0"), "greater than or equal to 1"),
    (("bench", "fashion32", "-o", "there"), "there exists and is no bench's folder"),
    (("bench", "fashion32", "--set", "recipe.efort=paper"), "unknown entry 'efort': did you mean effort"),
    (("bench", "fashion32", "--methods", "tfmq"), "did you mean tfmq-dm"),
    (("bench", "ffhq"), "ffhq names no model"),
    (("nothing",), "No such command"),
]


def test_refusals_that_need_no_model(place):
    for (args, said), (code, line) in zip(REFUSALS, call(place, *(args for args, _ in REFUSALS)), strict=True):
        assert code == 2 and said in line and line.count("\n") == 1, (args, line)


def test_one_refusal_alone(place):
    assert call(place, (*QUANTIZE, "-w", "9"))[0][0] == 2
