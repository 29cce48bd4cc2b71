"""Calls that cannot work, of every command: one line that names what is wrong, at once, and nothing touched."""

import errno
import hashlib
import os
import re
import shutil
import sys
from pathlib import Path

import pytest
from test_cli import USER_FILE

from tempoquant.cli import main

EXITS = """

def quits():
    import sys
    sys.exit(0)


def raises_exit():
    raise SystemExit("enough")
"""
MODEL = "mine.py:make"
LONG = "x" * 300
HUGE = "9999999999"


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A working folder with a quantized model, and one file or folder of each kind that a call may name by mistake."""
    folder, before = tmp_path_factory.mktemp("place"), Path.cwd()
    os.chdir(folder)
    Path("mine.py").write_text(USER_FILE + EXITS)
    Path("exits.py").write_text("import sys\nsys.exit(0)\n")
    Path("binary.bin").write_bytes(bytes(range(256)))
    Path("empty.txt").touch()
    Path("folder").mkdir()
    Path("folder/mine.txt").write_text("mine")
    Path("rtn.yaml").write_text("method: rtn\n")
    Path("lsq.yaml").write_text("method: lsq\ntraining: {scheme: lsq}\n")
    assert call("quantize", MODEL, "--method", "rtn", "--samples", "2", "--steps", "4", "-o", "out") == 0
    yield folder
    os.chdir(before)


@pytest.fixture
def refused(place, capfd):
    """Make a call that must be refused: exit code 2, one line, every file as it was."""

    def make(*args: str) -> str:
        capfd.readouterr()
        before = contents()
        code = call(*args)
        out, err = capfd.readouterr()
        lines = err.splitlines()
        assert (code, out, len(lines)) == (2, "", 1), (code, out, err)
        assert lines[0].startswith("tempoquant: ") and contents() == before
        return lines[0]

    there = set(Path().iterdir())
    yield make
    # What one bad call left would fail the next ones too.
    for path in set(Path().iterdir()) - there:
        shutil.rmtree(path) if path.is_dir() else path.unlink()


def call(*args: str) -> int:
    argv = sys.argv
    sys.argv = ["tempoquant", *args]
    try:
        main()
    except SystemExit as ended:
        return ended.code
    finally:
        sys.argv = argv
    raise AssertionError("the command line returned")


def contents() -> dict[str, tuple]:
    found = {}
    for path in Path().rglob("*"):
        if "__pycache__" not in path.parts:
            digest = hashlib.blake2b(path.read_bytes()).hexdigest() if path.is_file() else "folder"
            found[str(path)] = (digest, path.stat().st_mtime_ns)
    return found


QUANTIZE = ("quantize", MODEL, "-o", "new")
TRAIN = ("train", MODEL, "-o", "new")
FILLED = ("--denoiser", MODEL)
GENERATE = ("generate", "out", *FILLED, "-o", "new.png")
EVALUATE = ("evaluate", "out", "--reference", MODEL, "-n", "2")
DIAGNOSE = ("diagnose", "out", *FILLED, "--reference", MODEL, "-o", "new")
INTERVALS = ("intervals", "out", "--reference", MODEL, "-o", "new.png")
BENCH = ("bench", "fashion32", "-o", "new")
CNN = ("--metrics", "fd", "--extractor", "fashion32-cnn")

RECIPE = (*QUANTIZE, "--recipe", "rtn.yaml")
TRAINING_RECIPE = (*TRAIN, "--recipe", "lsq.yaml")


def each(command: tuple[str, ...], options: str, *values: str) -> list[tuple[tuple[str, ...], str]]:
    """The command with each of these options at each of these values, which the line names."""
    return [((*command, option, value), value) for option in options.split() for value in values]


NUMBERS = [
    *each(QUANTIZE, "--samples", "0", "-1", "1e21", HUGE, "1" + "0" * 21, "nan", "2.5"),
    *each(QUANTIZE, "--steps", "0", HUGE, "101"),
    *each(QUANTIZE, "--eta", "-0.1", "1.1", "nan", "inf"),
    *each(QUANTIZE, "-w", "0", "1", "9", "33", "1e3"),
    *each(QUANTIZE, "-a", "-4", "99999999999999999999", "x"),
    *each(QUANTIZE, "--step-bits", "4,,8", "nan", "0"),
    *each(QUANTIZE, "--guidance", "-1", "nan", "inf"),
    *each(QUANTIZE, "--seed", "1.5"),
    *each(TRAIN, "--lr", "inf", "nan", "0", "-1"),
    *each(TRAIN, "--ema", "1", "-0.1", "nan"),
    *each(TRAIN, "--train-steps --batch --lora", "0", HUGE),
    *each(TRAIN, "--warm-up", "-1", HUGE),
    *each(TRAIN, "--save-every --samples-every", "-1"),
    *each(TRAIN, "--accumulate", "3"),
    *each(GENERATE, "-n --steps --batch-size", "0", "-1", HUGE),
    *each(EVALUATE, "-n --noise-samples", "0", "1e21", HUGE),
    *each((*EVALUATE, *CNN), "--distribution-samples", "0", HUGE),
    *each(DIAGNOSE, "-n --keep --steps", "0", HUGE),
    *each(DIAGNOSE, "--ranking-samples", "-1", HUGE),
    *each(INTERVALS, "-n --batch-size", "0", HUGE),
    *each(("demo", "-o", "new"), "--samples --images", "0", HUGE),
    *each(BENCH, "--jobs --threads", "0", HUGE),
    *each(BENCH, "--seeds", "1;2", "1.5"),
    *each(("bake", "out", *FILLED, "-o", "new"), "--steps", HUGE),
    ((*BENCH, "--set", f"evaluation.images={HUGE}"), HUGE),
    ((*BENCH, "--set", "eta=.nan"), "nan"),
]
NAMES = [
    ((*QUANTIZE, "--method", "tfmqdm"), "did you mean tfmq-dm"),
    ((*QUANTIZE, "--sampler", "dddim"), "did you mean ddim"),
    ((*QUANTIZE, "--method", "lsq"), "lsq trains"),
    ((*TRAIN, "--method", "rtn"), "rtn does not train"),
    ((*TRAIN, "--loss", "l3"), "l3"),
    ((*GENERATE, "--sampler", ""), "unknown sampler ''"),
    ((*GENERATE, "--engine", "gpu"), "unknown engine 'gpu'"),
    ((*EVALUATE, "--metrics", "fdd"), "unknown metric 'fdd'"),
    ((*EVALUATE, "--metrics", ""), "unknown metric ''"),
    ((*EVALUATE, "--require", "psnr>="), "psnr>="),
    ((*EVALUATE, "--require", "psnr>=nan"), "nan"),
    ((*EVALUATE, "--require", "sharpness>=2"), "sharpness"),
    ((*DIAGNOSE, "--layer", "nothing"), "nothing"),
    (("export", "out", *FILLED, "-o", "new", "--to", "tflite"), "unknown export target 'tflite'"),
    ((*BENCH, "--methods", "xx"), "unknown method of this experiment 'xx'"),
    ((*BENCH, "--bits", "W1A8"), "W1A8"),
    ((*BENCH, "--set", "steps"), "'steps': KEY=VALUE"),
    ((*BENCH, "--set", "steps="), "'steps=': KEY=VALUE"),
    ((*BENCH, "--set", "nothing=1"), "nothing"),
    ((*BENCH, "--model", ""), "not a diffusers folder"),
    (("bench", "fashion3", "-o", "new"), "did you mean fashion32"),
    (("doctor", "x"), "unexpected extra argument"),
    (("nothing",), "No such command"),
    (("--versions",), "--versions"),
]
FILES = [
    *each(QUANTIZE, "--recipe --policy", "none.yaml", "folder", "empty.txt", LONG),
    *each(QUANTIZE, "--plugin", "none.py", "folder", "binary.bin", "exits.py", LONG),
    *each(QUANTIZE, "--prompts", "none", "folder", "binary.bin", "empty.txt", LONG),
    *each(QUANTIZE, "--recording", "empty.txt", "empty.txt/x", LONG),
    *each(QUANTIZE, "--json", "rtn.yaml", "folder", "no/such.json", "new", LONG),
    *each(QUANTIZE, "--report", "x.txt", "no/x.html", "folder"),
    *each(TRAIN, "--data", "none", "empty.txt", "folder", "binary.bin", "none.npz", LONG),
    *each(TRAIN, "--json", "folder", "new"),
    *each(EVALUATE, "--json", "folder", "out", "empty.txt/x.json"),
    *each((*EVALUATE, *CNN), "--reference-images", "none", "binary.bin", LONG),
    *each(DIAGNOSE, "--recording", "empty.txt/x"),
    *each(INTERVALS, "--recording", "none", "folder", LONG),
    *each(INTERVALS, "--activations", "x.txt"),
    *each(BENCH, "--json", "new", "folder"),
    *each(("methods",), "--plugin", "none", "binary.bin", "exits.py"),
    *each(("doctor",), "--json", "no/x.json"),
    ((*QUANTIZE, "--json", "a\0b"), "null byte"),
    ((*BENCH, "--report", "r.html", "--json", "r.html"), "--json r.html"),
]
PLACES = [
    *each(("quantize", MODEL), "-o", "no/new", "empty.txt", "empty.txt/x", "folder", LONG, ""),
    *each(("generate", "out", "-n", "1", *FILLED), "-o", "folder", "no/x.png", LONG),
    *each(("export", "out", *FILLED), "-o", "folder", "no/x", "out", LONG),
    *each(("bake", "out", *FILLED), "-o", "folder", "no/x", LONG),
    *each(("demo",), "-o", "folder", "no/x", LONG),
    *each(("diagnose", "out", *FILLED, "--reference", MODEL), "-o", "folder", "no/x", "out", LONG),
    *each(("report", "out"), "-o", "x.txt", "no/x.html"),
    *each(("methods",), "--json", "folder", LONG),
    (("quantize", MODEL, "-o", "a\0b"), "null byte"),
]
MODELS = {
    "mine.py:quits": "SystemExit: 0",
    "mine.py:raises_exit": "SystemExit: enough",
    "exits.py:make": "importing exits.py failed: SystemExit",
    "mine.py:": "no function ''",
    "mine.py:nothing": "no function 'nothing'",
    "none.py:make": "no such file: none.py",
    "mine.py": "unknown model 'mine.py'",
    "binary.bin": "unknown model 'binary.bin'",
    "folder": "folder is not a diffusers folder",
    "none.ckpt": "no such file: none.ckpt",
    "": "not a diffusers folder",
    LONG: LONG,
    f"{LONG}.py:make": LONG,
}
VOID = [
    *((RECIPE, option, value) for option, value in {"--method": "rtn", "--weights": "4", "--activations": "8"}.items()),
    *((RECIPE, option, value) for option, value in {"--reading": "paper", "--effort": "fast", "--seed": "0"}.items()),
    *((RECIPE, option, value) for option, value in {"--samples": "4", "--steps": "4", "--sampler": "ddim"}.items()),
    *(
        (RECIPE, option, value)
        for option, value in {"--eta": "0", "--correction": "ptqd", "--step-bits": "4,8"}.items()
    ),
    *((TRAINING_RECIPE, option, value) for option, value in {"--weights": "4", "--lr": "0.1", "--ema": "0.9"}.items()),
    *((TRAINING_RECIPE, option, value) for option, value in {"--lora": "2", "--batch": "4", "--loss": "l2"}.items()),
    (TRAINING_RECIPE, "--bf16"),
    ((*QUANTIZE, "--method", "rtn"), "--effort", "balanced"),
    ((*QUANTIZE, "--sampler", "plms"), "--eta", "0.5"),
    (QUANTIZE, "--keep-generators"),
    (QUANTIZE, "--freeze-labels", "1"),
    (QUANTIZE, "--guidance", "2"),
    (("generate", MODEL, "-o", "new.png"), "--engine", "integer"),
    (("generate", MODEL, "-o", "new.png"), "--denoiser", MODEL),
    (EVALUATE, "--distribution-samples", "20"),
    (EVALUATE, "--statistics-cache", "cache"),
    (EVALUATE, "--clip", "folder"),
    (EVALUATE, "--extractor", "fashion32-cnn"),
    ((*EVALUATE, *CNN), "--clip", "folder"),
    ((*EVALUATE, "--metrics", "is", "--extractor", "fashion32-cnn"), "--reference-images", "folder"),
    ((*INTERVALS, "--recording", "folder"), "--seed", "3"),
    ((*INTERVALS, "--recording", "folder"), "--classes", "1"),
    ((*INTERVALS, "--recording", "folder"), "--prompts", "empty.txt"),
    ((*INTERVALS, "--recording", "folder"), "--guidance", "2"),
    *((TRAINING_RECIPE, option, value) for option, value in {"--method": "lsq", "--steps": "4", "--seed": "1"}.items()),
    *((TRAINING_RECIPE, option, value) for option, value in {"--train-steps": "2", "--warm-up": "1"}.items()),
    (TRAINING_RECIPE, "--accumulate", "2"),
    (QUANTIZE, "--freeze-prompts", "empty.txt"),
    (EVALUATE, "--reference-images", "folder"),
    (EVALUATE, "--extractor-weights", "binary.bin"),
    (EVALUATE, "--noise-samples", "3"),
    ((*EVALUATE, "--metrics", "fd"), "--extractor-weights", "binary.bin"),
    ((*EVALUATE, *CNN), "--statistics-cache", "cache"),
    ((*DIAGNOSE, "--ranking-samples", "0"), "--keep", "3"),
    ((*DIAGNOSE, "-n", "2"), "--ranking-samples", "3"),
    (("diagnose", MODEL, "--reference", MODEL, "-o", "new"), "--engine", "integer"),
    *(((command,), "--overwrite") for command in ("doctor", "methods")),
    (EVALUATE, "--overwrite"),
    (BENCH, "--overwrite"),
    ((*BENCH, "--set", "seeds=[3]"), "--seeds", "1"),
    ((*BENCH, "--set", "conditioning.guidance=2"), "--guidance", "1"),
    ((*BENCH, "--set", "model=fashion32"), "--model", MODEL),
    ((*BENCH, "--set", "steps=3"), "--set", "steps=4"),
    (("bench", MODEL, "-o", "new"), "--model", "fashion32"),
]


def shorter(value: object) -> str:
    parts = (
        [" ".join(part) if isinstance(part, tuple) else part for part in value] if isinstance(value, tuple) else value
    )
    return ascii((" ".join(parts) if isinstance(parts, list) else str(parts)).replace(LONG, "LONG"))


@pytest.mark.parametrize(("args", "number"), NUMBERS, ids=shorter)
def test_numbers(refused, args, number):
    assert re.search(rf"(?<![\w.]){re.escape(number)}(\.0)?(?![\w.])", refused(*args))


@pytest.mark.parametrize(("args", "said"), [*NAMES, *FILES], ids=shorter)
def test_the_line_names_the_value(refused, args, said):
    assert said.partition("/")[0][:40] in refused(*args)


@pytest.mark.parametrize(("args", "said"), PLACES, ids=shorter)
def test_nothing_is_written_over_what_is_not_ours(refused, args, said):
    for flags in ((), ("--overwrite",)):
        assert said.partition("/")[0][:40] in refused(*args, *flags)


def test_a_file_that_may_not_be_read(refused, monkeypatch):
    read = Path.read_text

    def read_text(path: Path, *args, **kwargs) -> str:
        if path.name == "empty.txt":
            raise PermissionError(errno.EACCES, "Permission denied", str(path))
        return read(path, *args, **kwargs)

    # Root may read everything, so the mode of a file would refuse nothing.
    monkeypatch.setattr(Path, "read_text", read_text)
    assert "Permission denied: empty.txt" in refused(*QUANTIZE, "--prompts", "empty.txt")


@pytest.mark.parametrize("model", MODELS, ids=shorter)
def test_models(refused, model):
    assert MODELS[model][:40] in refused("quantize", model, "-o", "new")


@pytest.mark.parametrize("args", VOID, ids=shorter)
def test_an_option_that_would_mean_nothing_is_named(refused, args):
    command, *option = args
    # As the command line or as a recipe spells it.
    assert option[0].lstrip("-") in refused(*command, *option).replace("_", "-")
