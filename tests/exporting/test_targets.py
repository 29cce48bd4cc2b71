"""An export target of a user's own, in one file."""

import pytest

import tempoquant
from tempoquant.cli import main
from tempoquant.errors import InputError
from tempoquant.exporting import TARGETS, register_target
from tempoquant.methods import load_plugins
from tiny import small_recipe, unet_pipeline

TORCHSCRIPT = """
import torch
from tempoquant.exporting import ExportTarget, register_target


def write(graph, example, folder):
    torch.jit.save(torch.jit.trace(graph, example), folder / "model.pt")


def read(folder, options):
    module = torch.jit.load(folder / "model.pt")

    def session(inputs):
        return module(*(torch.from_numpy(value) for value in inputs.values())).detach().numpy()

    return session


register_target("torchscript", ExportTarget(packages=("torch",), write=write, open=read))
"""


@pytest.fixture
def torchscript(tmp_path, monkeypatch):
    """The file of the plugin, loaded; forgotten afterwards."""
    monkeypatch.setattr("tempoquant.methods.plugins._loaded", set())
    path = tmp_path / "torchscript_target.py"
    path.write_text(TORCHSCRIPT)
    load_plugins([path])
    yield path
    del TARGETS["torchscript"]


@pytest.mark.usefixtures("brief")
def test_a_target_in_a_file_of_its_own_writes_and_draws(torchscript, tmp_path):
    made = tempoquant.quantize(unet_pipeline(), small_recipe("rtn"))
    made.use_engine("simulation")
    folder = tempoquant.export(made, tmp_path / "out", "torchscript")
    assert (folder / "unet" / "model.pt").is_file()
    again = tempoquant.load_exported(folder)
    images = made.generate(2, steps=4, seed=3)
    # Temporal features are rounded to float16 in the export.
    assert (again.generate(2, steps=4, seed=3) - images).abs().mean() < 0.01 * images.std()


def test_names_are_taken_once_and_unknown_ones_are_refused(tmp_path, monkeypatch, capfd):
    with pytest.raises(InputError, match="export target 'onnx' exists already"):
        register_target("onnx", TARGETS["onnx"])
    monkeypatch.setattr("sys.argv", ["tempoquant", "export", "nowhere", "--to", "opnvino", "-o", str(tmp_path / "x")])
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 2 and "did you mean openvino" in capfd.readouterr().err
