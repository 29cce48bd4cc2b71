"""Backends by name: one of a user's own, in a file outside of the package, and what a backend does not run."""

import copy
from pathlib import Path

import pytest
import torch

import tempoquant
from tempoquant.errors import InputError
from tempoquant.kernels import BACKENDS, Reason, Unsupported, backend_name, engine_report, use_engine
from tempoquant.kernels.onednn import IntegerKernel
from tempoquant.layers import quantized_layers, simulate
from tempoquant.plugins import load_plugins
from tiny import small_recipe, unet_pipeline

PLUGIN = (Path(__file__).parents[2] / "examples" / "extensions" / "backend.py").read_text()


@pytest.fixture
def plugin(tmp_path, fresh_registries):
    file = tmp_path / "numpy_backend.py"
    file.write_text(PLUGIN)
    yield file
    BACKENDS.pop("numpy", None)


@pytest.fixture(scope="module")
def quantized():
    return tempoquant.quantize(unet_pipeline(), small_recipe())


def predicted(module):
    x = torch.randn(2, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        return module(x, torch.tensor(50)).sample


def test_a_backend_of_ones_own_computes_what_it_supports(quantized, plugin):
    load_plugins([plugin])
    module = copy.deepcopy(quantized.denoiser.module)
    report = use_engine(module, "numpy")
    layers = quantized_layers(module)
    linear = {name for name, layer in layers.items() if isinstance(layer, torch.nn.Linear)}
    assert linear and report == engine_report(module, "numpy")
    assert {name for name, what in report.items() if what == "numpy int64"} == linear
    assert {report[name] for name in report.keys() - linear} == {"simulation (no linear layer but a QuantConv2d)"}
    assert all((layer.kernel is simulate) == (name not in linear) for name, layer in layers.items())
    by_numpy = predicted(module)
    use_engine(module, "simulation")
    assert torch.equal(by_numpy, predicted(module))


def test_a_folder_is_loaded_and_drawn_from_by_a_backend_of_ones_own(quantized, plugin, tmp_path):
    load_plugins([plugin])
    quantized.save_pretrained(tmp_path / "out")
    mine = tempoquant.load(tmp_path / "out", engine="numpy")
    assert "numpy int64" in engine_report(mine.denoiser.module).values()
    simulated = tempoquant.load(tmp_path / "out", engine="simulation")
    options = {"steps": 3, "seed": 0}
    assert torch.equal(mine.generate(1, **options), simulated.generate(1, **options))


def test_what_a_backend_of_ones_own_does_wrong_is_one_line_with_its_name(quantized, plugin):
    plugin.write_text(PLUGIN.replace("if not isinstance", "return 1 / 0\n        if not isinstance"))
    load_plugins([plugin])
    with pytest.raises(InputError, match="engine 'numpy' failed: ZeroDivisionError"):
        use_engine(copy.deepcopy(quantized.denoiser.module), "numpy")


def test_names_are_taken_once_and_unknown_ones_name_the_nearest(plugin):
    load_plugins([plugin])
    assert (backend_name("numpy"), backend_name("auto"), backend_name("integer")) == ("numpy", "onednn", "onednn")
    plugin.with_name("again.py").write_text(PLUGIN.replace('"numpy"', '"auto"'))
    with pytest.raises(InputError, match="engine 'auto' exists already"):
        load_plugins([plugin.with_name("again.py")])
    with pytest.raises(InputError, match="unknown engine 'onednm': did you mean onednn"):
        backend_name("onednm")


def test_a_layer_that_changed_since_is_reported_with_the_reason(quantized):
    if not BACKENDS["onednn"].available():
        pytest.skip("this processor's int8 operators are not exact")
    module = copy.deepcopy(quantized.denoiser.module)
    assert set(use_engine(module, "onednn").values()) == {"onednn int8"}
    name, layer = next(iter(quantized_layers(module).items()))
    assert isinstance(layer.kernel, IntegerKernel)
    layer.input_interval.bits = 16
    assert engine_report(module)[name] == "simulation (16-bit input)"


def test_reasons_are_compared_not_read():
    assert Unsupported(Reason.INPUT_BITS, 16) == Unsupported(Reason.INPUT_BITS, 16)
    assert str(Unsupported(Reason.INPUT_BITS, 16)) == "16-bit input"
    assert str(Unsupported(Reason.DEVICE, "cuda")) == "on cuda" and str(Unsupported(Reason.CHOSEN)) == "chosen"
