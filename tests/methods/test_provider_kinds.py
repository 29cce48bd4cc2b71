"""A provider kind in a file outside of the package: used by quantize, save, load and generate."""

import pytest
import torch

import tempoquant
from tempoquant.errors import InputError
from tempoquant.extension import PROVIDERS
from tempoquant.methods import load_plugins
from tiny import bare_denoiser, changed_recipe, small_recipe

PLUGIN = '''
import torch

from tempoquant.intervals import ConstantInterval, IntervalProvider, register_provider
from tempoquant.numerics import QParams


@register_provider("halves")
class Halves(IntervalProvider):
    """A scale for the earlier, and one for the later recorded time steps."""

    def __init__(self, scale, zero_point, bits, clock):
        super().__init__(bits, 0, 2**bits - 1)
        self.register_buffer("scale", scale.float())
        self.register_buffer("zero_point", zero_point.float())
        self.clock = clock

    def at(self, row):
        half = (row >= len(self.clock) // 2).long()
        return QParams(self.scale[half], self.zero_point[half], self.q_min, self.q_max)

    def current(self):
        return self.at(self.clock.row)

    @classmethod
    def from_observed(cls, observed):
        rows = len(observed.clock)
        found = observed.qparams([int(row >= rows // 2) for row in range(rows)], 2)
        return cls(found.scale, found.zero_point, observed.spec.bits, observed.clock)

    def tensors(self):
        return {"halves": self.scale, "zero": self.zero_point}

    @classmethod
    def from_entry(cls, form, read, clock):
        return cls(read("halves", 2), read("zero", 2), form.bits, clock)
'''
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
