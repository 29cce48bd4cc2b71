"""A provider kind in a file outside of the package: used by quantize, save, load and generate."""

import re
from pathlib import Path

import pytest
import torch

import tempoquant
from tempoquant.errors import InputError
from tempoquant.extension import PROVIDERS
from tempoquant.methods import load_plugins
from tiny import bare_denoiser, changed_recipe, small_recipe

DOCS = (Path(__file__).parents[2] / "docs" / "methods.md").read_text()
PLUGIN = next(code for code in re.findall(r"```python\n(.*?)```", DOCS, re.DOTALL) if "register_provider" in code)
pytestmark = pytest.mark.usefixtures("brief")


@pytest.fixture
def plugin(tmp_path, fresh_registries):
    path = tmp_path / "halves.py"
    path.write_text(PLUGIN)
    return path


def test_a_kind_of_ones_own_is_calibrated_saved_and_loaded(plugin, tmp_path):
    with pytest.raises(InputError, match="unknown schedule 'halves'"):
        changed_recipe(small_recipe("rtn"), activations={"steps": "halves"})
    load_plugins([plugin])
    recipe = changed_recipe(small_recipe("rtn"), activations={"steps": "halves"})
    made = tempoquant.quantize(bare_denoiser(), recipe, out=tmp_path / "out")
    provider = made.denoiser.module.middle.input_interval
    assert provider.kind == "halves" and provider.scale[0] != provider.scale[1]
    again = tempoquant.load(tmp_path / "out", denoiser=bare_denoiser(seed=9))
    assert torch.equal(made.generate(2, steps=4, seed=3), again.generate(2, steps=4, seed=3))
    again.save_pretrained(tmp_path / "copy")
    name = "denoiser/diffusion_pytorch_model.safetensors"
    assert (tmp_path / "copy" / name).read_bytes() == (tmp_path / "out" / name).read_bytes()
    del PROVIDERS["halves"]
    with pytest.raises(Exception, match="unknown kind of interval 'halves'"):
        tempoquant.load(tmp_path / "out", denoiser=bare_denoiser())


def test_a_kind_has_one_class(plugin):
    load_plugins([plugin])
    with pytest.raises(InputError, match="'constant' exists already"):
        exec(PLUGIN.replace('"halves")', '"constant")'), {"__name__": "mine"})
    with pytest.raises(InputError, match="unknown schedule 'table'"):
        changed_recipe(small_recipe("rtn"), activations={"steps": "table"})
