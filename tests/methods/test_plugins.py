"""A method in one file of a user's own: the documentation's example, installed or named, and what can go wrong."""

import json
import re
import sys
from pathlib import Path

import pytest
import torch

import tempoquant
from tempoquant.cli import main
from tempoquant.errors import InputError
from tempoquant.extension import ACTIVATION_RANGES, WEIGHT_RANGES, WEIGHT_ROUNDINGS
from tempoquant.methods import METHODS, load_plugins
from tempoquant.recipe import Recipe
from tiny import SMALL, bare_denoiser, small_recipe

DOCS = (Path(__file__).parents[2] / "docs" / "methods.md").read_text()
EXAMPLE = re.search(r"```python\n(.*?)```", DOCS, re.DOTALL)[1]  # type: ignore[index]
REGISTRIES = (METHODS, WEIGHT_RANGES, ACTIVATION_RANGES, WEIGHT_ROUNDINGS)


@pytest.fixture(autouse=True)
def place(tmp_path, monkeypatch, fresh_registries):
    """A working folder."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def installed(place, monkeypatch):
    """Install a module with an entry point, as pip would leave it."""

    def install(source: str) -> None:
        site = place / "site"
        info = site / "mine-1.0.dist-info"
        info.mkdir(parents=True)
        (site / "my_methods.py").write_text(source)
        (info / "METADATA").write_text("Metadata-Version: 2.1\nName: mine\nVersion: 1.0\n")
        (info / "entry_points.txt").write_text("[tempoquant.methods]\nthree-sigma = my_methods\n")
        monkeypatch.syspath_prepend(str(site))

    return install


@pytest.fixture
def run(monkeypatch, capfd):
    """Run a command line: its exit code, stdout and stderr."""

    def call(*args: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["tempoquant", *args])
        with pytest.raises(SystemExit) as ended:
            main()
        out, err = capfd.readouterr()
        return ended.value.code, out, err

    return call


FACTORY = """
import sys

sys.path.insert(0, {tests!r})


def make():
    from tiny import bare_denoiser

    denoiser = bare_denoiser()
    denoiser.sample_shape = (1, 16, 16)
    return denoiser
"""


def test_an_installed_method_is_everywhere(installed, run):
    installed(EXAMPLE)
    code, out, err = run("methods", "--json", "m.json")
    assert code == 0 and "three-sigma" in out, err
    found = {m["name"]: m for m in json.loads(Path("m.json").read_text())}
    assert found["three-sigma"]["paper"] == "mine" and found["three-sigma"]["engine"] == "yes"
    assert found["tfmq-dm"]["needs"] == "recorded trajectories, a temporal block"
    Path("model.py").write_text(FACTORY.format(tests=str(Path(__file__).parents[1])))
    few = ("--samples", "2", "--steps", "4")
    assert run("quantize", "model.py:make", "--method", "three-sigma", *few, "-o", "out")[0] == 0
    runs = [{"method": "three-sigma", "bits": ["W4A8"]}, {"method": "rtn", "bits": ["W4A8"]}]
    small = {"samples": 2, "rows": 8, "rows_per_step": 2}
    evaluation = {"images": 1, "noise_samples": 1}
    entries = {"model": "model.py:make", "steps": 4, "runs": runs, "calibration": small, "evaluation": evaluation}
    Path("e.yaml").write_text(json.dumps(entries))
    code, out, err = run("bench", "e.yaml", "-o", "bench")
    assert code == 0 and "| three-sigma | W4A8 |" in out, err


def test_a_file_is_named_on_the_command_line(run):
    Path("mine.py").write_text(EXAMPLE)
    assert "three-sigma" in run("methods", "--plugin", "mine.py")[1]
    code, out, err = run("methods", "--plugin", "none.py")
    assert (code, out, err) == (2, "", "tempoquant: no plugin file none.py\n")
    Path("recipe.yaml").write_text("method: mine\nweights: {range: three-sigma, rounding: nearest-fitted}")
    assert Recipe.from_file("recipe.yaml").weights.range == "three-sigma"


def test_its_functions_do_the_work(installed):
    installed(EXAMPLE)
    recipe = small_recipe("three-sigma")
    seen: dict[str, list] = {"rounding": [], "activations": []}

    def watched(registry, name, into):
        function = registry[name]
        registry[name] = lambda *args: (into.append(args), function(*args))[1]

    watched(WEIGHT_ROUNDINGS, "nearest-fitted", seen["rounding"])
    watched(ACTIVATION_RANGES, "central-99", seen["activations"])
    quantized = tempoquant.quantize(bare_denoiser(), recipe)
    # Three convolutions and two temporal layers, these in their own units.
    assert sorted(w.shape[0] for w, *_ in seen["rounding"]) == [1, 8, 8, 8, 8]
    assert all(q.shape == f.shape and q.shape[1] == w.shape[1] for w, _, q, f in seen["rounding"])
    # Where layers before are quantized, both networks' inputs differ.
    assert any(not torch.equal(q, f) for _, _, q, f in seen["rounding"])
    assert {(v.shape[0], *grid) for v, *grid in seen["activations"]} == {(SMALL["steps"], 8, False)}
    layer = quantized.denoiser.module.middle
    weight = bare_denoiser().module.middle.weight.detach().flatten(1)
    spread = weight.std(1, correction=0)
    low, high = (weight.mean(1) - 3 * spread).clamp(max=0), (weight.mean(1) + 3 * spread).clamp(min=0)
    expected = torch.round(-low / ((high - low) / 15)).int()
    assert torch.equal(layer.weight_zero[:, 0].int(), expected)
    assert not torch.allclose(layer.weight_scale[:, 0], (high - low) / 15)


def test_a_folder_loads_without_its_plugin(installed, place):
    installed(EXAMPLE)
    quantized = tempoquant.quantize(bare_denoiser(), small_recipe("three-sigma"), out=place / "out")
    images = quantized.generate(2, steps=4, seed=3)
    for registry in REGISTRIES:
        for name in ("three-sigma", "central-99", "nearest-fitted"):
            registry.pop(name, None)
    loaded = tempoquant.load(place / "out", denoiser=bare_denoiser())
    assert loaded.recipe.weights.rounding == "nearest-fitted"
    assert torch.equal(loaded.generate(2, steps=4, seed=3), images)
    with pytest.raises(InputError, match="unknown weight range 'three-sigma': Valid: minmax, mse"):
        Recipe.parse(loaded.recipe.model_dump())


BROKEN = {
    "import": ("import nothing_of_this_name", "ModuleNotFoundError: No module named 'nothing_of_this_name'"),
    "syntax": ("def f(:", "SyntaxError"),
    "taken method": (EXAMPLE.replace('@method("three-sigma"', '@method("rtn"'), "method 'rtn' exists already"),
    "taken range": (EXAMPLE.replace('register("three-sigma")', 'register("mse")'), "weight range 'mse' exists already"),
}


@pytest.mark.parametrize(("source", "said"), BROKEN.values(), ids=BROKEN)
def test_a_plugin_that_cannot_be_loaded_is_named(installed, source, said):
    installed(source)
    with pytest.raises(InputError) as caught:
        load_plugins()
    message = str(caught.value)
    assert "plugin 'three-sigma' (my_methods) cannot be loaded" in message and said in message and "\n" not in message


FAILING = {
    "weight range": (
        "return mean - 3 * deviation, mean",
        "return mean[:1] - 3 * deviation[:1], mean",
        "must return (low",
    ),
    "activation range": (
        "values.quantile(0.005, dim=1)",
        "values.nothing()",
        "activation range 'central-99' failed: Attr",
    ),
    "not finite": (
        "return values.quantile(0.005, dim=1)",
        "return values.sum(1) / 0 - 1 / values.sum(1) * 0",
        "finite",
    ),
    "rounding off the grid": (
        "nearest(weight, qparams)\n",
        "nearest(weight, qparams) + 99\n",
        "weight rounding 'nearest-fitted' must return",
    ),
    "rounding of halves": ("return integers,", "return integers / 2,", "weight rounding 'nearest-fitted' must return"),
    "one result": ("return integers, qparams.with_scale", "return qparams.with_scale", "'nearest-fitted'"),
    "method": ("    return {\n", "    return 1 / 0\n    return {\n", "method 'three-sigma' failed: ZeroDivisionError"),
    "no entries": (
        "    return {\n",
        "    return [1]\n    return {\n",
        "must return a dict of recipe entries, not list",
    ),
    "wrong entry": ('"range": "three-sigma"', '"range": "three-sgima"', "did you mean three-sigma"),
}


@pytest.mark.parametrize(("old", "new", "said"), FAILING.values(), ids=FAILING)
def test_a_plugin_that_fails_is_named_in_one_line(installed, old, new, said):
    assert old in EXAMPLE
    installed(EXAMPLE.replace(old, new))
    with pytest.raises(InputError) as caught:
        tempoquant.quantize(bare_denoiser(), small_recipe("three-sigma"))
    assert said in str(caught.value) and "\n" not in str(caught.value)


def test_plugins_are_loaded_once(installed, place):
    installed("import my_counter; my_counter.n += 1")
    (place / "site" / "my_counter.py").write_text("n = 0")
    (place / "file.py").write_text("import my_counter; my_counter.n += 10")
    for _ in range(3):
        load_plugins([place / "file.py"])
    assert sys.modules["my_counter"].n == 11
