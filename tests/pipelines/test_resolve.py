import sys

import pytest
import torch
from diffusers import DiffusionPipeline

from tempoquant.errors import FormatError, InputError
from tempoquant.pipelines import BareModel, DiffusersModel, resolve

FACTORY = """
from diffusers import DDIMScheduler
from torch import nn
from tempoquant import Denoiser

class Net(nn.Module):
    def forward(self, x, t):
        return x

def make():
    return Denoiser(Net(), DDIMScheduler(), (1, 2, 2), name="mine")

def wrong():
    return Net()

def fails():
    raise RuntimeError("no weights\\nsecond line")
"""


def test_objects(toy, ddim_pipe):
    assert isinstance(resolve(toy), BareModel)
    assert isinstance(resolve(ddim_pipe), DiffusersModel)
    assert resolve(resolve(toy)).denoiser is toy
    with pytest.raises(InputError, match="a Linear is not a model"):
        resolve(torch.nn.Linear(1, 1))


def test_folder_and_bundled_name(ddim_pipe, tmp_path, monkeypatch):
    ddim_pipe.save_pretrained(tmp_path / "mine")
    assert resolve(tmp_path / "mine").name == "mine"
    (tmp_path / "assets").mkdir()
    ddim_pipe.save_pretrained(tmp_path / "assets" / "fashion32")
    monkeypatch.setattr(sys.modules["tempoquant.pipelines.resolving"], "files", lambda package: tmp_path)
    assert resolve("fashion32").name == "fashion32"


def test_folders_that_are_none(tmp_path):
    with pytest.raises(FormatError, match="has no model_index"):
        resolve(tmp_path)
    (tmp_path / "denoiser").mkdir()
    with pytest.raises(InputError, match="holds a bare denoiser"):
        resolve(str(tmp_path))
    (tmp_path / "model_index.json").write_text("{}")
    with pytest.raises(FormatError, match="cannot be loaded") as caught:
        resolve(tmp_path)
    assert "\n" not in str(caught.value)


def test_a_folders_own_code_is_not_run(ddim_pipe, tmp_path):
    ddim_pipe.save_pretrained(tmp_path)
    (tmp_path / "pipeline.py").write_text("raise SystemExit('ran')")
    index = (tmp_path / "model_index.json").read_text()
    (tmp_path / "model_index.json").write_text(index.replace('"DDIMPipeline"', '["pipeline", "Mine"]'))
    with pytest.raises(FormatError, match="cannot be loaded"):
        resolve(tmp_path)


def test_factory(tmp_path):
    path = tmp_path / "net.py"
    path.write_text(FACTORY)
    assert resolve(f"{path}:make").name == "mine"
    for factory, message in (
        ("none", "no function 'none'"),
        ("wrong", "returned Net"),
        ("fails", "RuntimeError: no weights$"),
    ):
        with pytest.raises(InputError, match=message):
            resolve(f"{path}:{factory}")
    with pytest.raises(InputError, match="no such file"):
        resolve(f"{tmp_path}/other.py:make")
    path.write_text("import no_such_package")
    with pytest.raises(InputError, match=r"importing .* failed: ModuleNotFoundError"):
        resolve(f"{path}:make")


def test_hub_failure_is_one_line(monkeypatch):
    def refuse(*args, **kwargs):
        raise OSError("We couldn't connect\nto the hub")

    monkeypatch.setattr(DiffusionPipeline, "download", refuse)
    with pytest.raises(InputError, match=r"no folder 'org/name' here, and the hub gave none: We couldn't connect$"):
        resolve("org/name")


@pytest.mark.parametrize("name", ["fashion23", "./no/such/folder", "/abs/folder"])
def test_unknown_names(name):
    with pytest.raises(InputError, match="unknown model"):
        resolve(name)
