"""The examples of extensions: each in one file outside of the package, used by quantize, load and generate."""

import shutil
import sys
from pathlib import Path

import pytest
import torch

import tempoquant
from tempoquant.cli import main
from tempoquant.layers import quantized_layers
from tempoquant.methods import method_recipe
from tempoquant.plugins import load_plugins
from tempoquant.recipe import Recipe
from tiny import SMALL, bare_denoiser, changed_recipe, small_recipe, unet_pipeline

EXAMPLES = Path(__file__).parents[1] / "examples" / "extensions"
RUN = {"steps": 4, "seed": 3}
pytestmark = pytest.mark.usefixtures("brief")


@pytest.fixture
def plugin(tmp_path, fresh_registries):
    """Copies an example into a folder of its own and loads it, as ``--plugin`` does; gives its module."""

    def load(name):
        file = shutil.copy(EXAMPLES / f"{name}.py", tmp_path / f"mine_{name}.py")
        load_plugins([Path(file)])
        return next(m for m in sys.modules.values() if getattr(m, "__file__", None) == str(file))

    return load


def drawn(recipe: Recipe, folder: Path, make=bare_denoiser):
    """The model that ``recipe`` makes; the folder that it is saved to draws the same images."""
    made = tempoquant.quantize(make(), recipe, out=folder)
    images = made.generate(2, **RUN)
    again = tempoquant.load(folder, denoiser=make())
    assert torch.equal(again.generate(2, **RUN), images)
    return made


def ended(monkeypatch, words: list[str]) -> int:
    """The exit code of a command line."""
    monkeypatch.setattr(sys, "argv", ["tempoquant", *words])
    with pytest.raises(SystemExit) as ending:
        main()
    return ending.value.code


def test_a_method(plugin, tmp_path):
    plugin("method")
    made = drawn(method_recipe("three-sigma", calibration=SMALL), tmp_path / "out")
    weight = bare_denoiser().module.middle.weight.detach().flatten(1)
    deviation, mean = weight.std(1, correction=0), weight.mean(1)
    width = (mean + 3 * deviation).clamp(min=0) - (mean - 3 * deviation).clamp(max=0)
    scale = made.denoiser.module.middle.weight_scale[:, 0]
    # Fitted to outputs afterwards, so near to the scale of the range.
    assert ((scale / (width / 15) - 1).abs() < 0.2).all()


def test_a_stage(plugin, tmp_path):
    plain = drawn(small_recipe("rtn"), tmp_path / "plain")
    plugin("stage")
    wide = drawn(small_recipe("wide-rtn"), tmp_path / "wide")
    before, after = (made.denoiser.module.middle.weight_scale for made in (plain, wide))
    assert torch.equal(before * 1.01, after)


def test_a_kind_of_activation_scales(plugin, tmp_path):
    plugin("provider")
    made = drawn(changed_recipe(small_recipe("rtn"), activations={"steps": "halves"}), tmp_path / "out")
    provider = made.denoiser.module.middle.input_interval
    assert type(provider).__name__ == "Halves" and provider.scale[0] != provider.scale[1]


def test_a_layer_kind(plugin, tmp_path):
    module = plugin("layer_kind")
    recipe = method_recipe("rtn", weights=8, activations=8, calibration=SMALL)
    made = drawn(recipe, tmp_path / "out", module.denoiser)
    layer = quantized_layers(made.denoiser.module)["middle"]
    assert type(layer).__name__ == "QuantGainedLinear" and layer.weight.dtype == torch.int8
    assert made.use_engine("integer")["middle"] == "simulation (no operator for gained-linear)"
    full = module.denoiser()
    x, t = torch.randn(4, 8, generator=torch.Generator().manual_seed(0)), torch.tensor(30)
    with torch.no_grad():
        error = (made.denoiser(x, t) - full(x, t)).abs().mean() / full(x, t).abs().mean()
    assert error < 0.05


def test_a_backend(plugin, tmp_path, monkeypatch):
    made = drawn(small_recipe("rtn"), tmp_path / "out")
    plugin("backend")
    report = made.use_engine("numpy")
    assert report["time_in"] == "numpy int64" and report["middle"].startswith("simulation (no linear layer")
    images = made.generate(2, **RUN)
    made.use_engine("simulation")
    assert torch.equal(made.generate(2, **RUN), images)
    unet_pipeline().save_pretrained(tmp_path / "model")
    tempoquant.quantize(tmp_path / "model", small_recipe("rtn"), out=tmp_path / "unet")
    mine = ["--plugin", str(tmp_path / "mine_backend.py"), "--engine", "numpy"]
    words = ["generate", str(tmp_path / "unet"), "-n", "1", "--steps", "4", "-o", str(tmp_path / "a.npy"), *mine]
    assert ended(monkeypatch, words) == 0 and (tmp_path / "a.npy").is_file()


def test_an_export_target(plugin, tmp_path):
    plugin("export_target")
    made = tempoquant.quantize(unet_pipeline(), small_recipe("rtn"))
    made.use_engine("simulation")
    folder = tempoquant.export(made, tmp_path / "out", "torchscript")
    images = made.generate(2, **RUN)
    again = tempoquant.load_exported(folder).generate(2, **RUN)
    # Temporal features are rounded to float16 in the export.
    assert (folder / "unet" / "model.pt").is_file() and (again - images).abs().mean() < 0.01 * images.std()


def test_the_command_line_takes_the_file(plugin, tmp_path, monkeypatch):
    plugin("method")
    unet_pipeline().save_pretrained(tmp_path / "model")
    words = [
        "quantize",
        str(tmp_path / "model"),
        "--plugin",
        str(tmp_path / "mine_method.py"),
        "--method",
        "three-sigma",
    ]
    words += ["--samples", "2", "--steps", "4", "-o", str(tmp_path / "out")]
    assert ended(monkeypatch, words) == 0 and tempoquant.load(tmp_path / "out").recipe.method == "three-sigma"
