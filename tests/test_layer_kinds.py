"""Layers of every kind through a whole job: quantized, saved, loaded, drawn from; and a kind of a user's own."""

import pytest
import torch
from torch import nn

import tempoquant
from signal_models import grouped, signals
from tempoquant.errors import InputError
from tempoquant.graph import KINDS
from tempoquant.job import full_precision
from tempoquant.layers import LAYER_KINDS, quantized_layers
from tempoquant.planning import coverage_lines
from tempoquant.recipe.parts import Override
from tempoquant.sampling.sampling import sample
from tiny import small_recipe

pytestmark = pytest.mark.usefixtures("brief")


SIMULATED = {
    "volume": "simulation (no operator for conv3d)",
    "flat": "simulation (no operator for conv-transpose2d)",
    "up": "simulation (no operator for conv-transpose1d)",
}


@pytest.mark.parametrize(
    ("method", "group_size"), [("rtn", None), ("tfmq-dm", None), ("brecq", None), ("tfmq-dm", 16), ("brecq", 16)]
)
def test_a_denoiser_of_every_kind(tmp_path, method, group_size):
    recipe = grouped(small_recipe(method), group_size)
    recipe = recipe.model_copy(update={"policy": (*recipe.policy, Override(match="table", weight_bits=8))})
    made = tempoquant.quantize(signals(), recipe, out=tmp_path / "out")
    layers = quantized_layers(made.denoiser.module)
    assert list(layers) == ["table", "time", "first", "down", "volume", "flat", "up", "last"]
    assert layers["table"].weight_bits == 8 and layers["table"].input_interval is None
    assert all(layer.weight_scale is not None for layer in layers.values())
    several = {name for name, layer in layers.items() if layer.weight_groups == 2}
    assert several == (set(layers) - {"first"} if group_size else set())
    images = made.generate(2, seed=3, steps=4)
    loaded = tempoquant.load(tmp_path / "out", denoiser=signals())
    assert torch.equal(loaded.generate(2, seed=3, steps=4), images)
    for name, layer in quantized_layers(loaded.denoiser.module).items():
        saved = layers[name]
        assert torch.equal(layer.weight, saved.weight) and torch.equal(layer.weight_zero, saved.weight_zero)
        assert torch.equal(layer.weight_scale, saved.weight_scale) and layer.group_size == saved.group_size


def test_conv1d_runs_in_integers_and_the_others_are_named():
    made = tempoquant.quantize(signals(), small_recipe("rtn"))
    made.use_engine("simulation")
    images = made.generate(2, seed=3, steps=4)
    report = made.use_engine("integer")
    assert SIMULATED.items() <= report.items()
    assert {report[name] for name in ("time", "first", "down", "last")} == {"onednn int8"}
    assert torch.equal(made.generate(2, seed=3, steps=4), images)


def test_grouped_weights_are_simulated_and_named():
    recipe = grouped(small_recipe("rtn"), 16)
    report = tempoquant.quantize(signals(), recipe).use_engine("integer")
    assert report["down"] == "simulation (grouped weight)" and report["first"] == "onednn int8"


def test_an_embedding_stays_float_unless_a_policy_gives_its_bits():
    for policy in ((), ({"match": "table", "activation_bits": 8},), ({"match": "table", "weight_bits": 32},)):
        made = tempoquant.quantize(signals(), small_recipe("rtn", policy=policy))
        assert type(made.denoiser.module.table) is nn.Embedding
        found = [part for part in made.facts["coverage"]["float"] if part["name"] == "table"]
        assert [(part["reason"], part["parameters"]) for part in found] == [("looked up, not multiplied", 3200)]
    made = tempoquant.quantize(signals(), small_recipe("rtn", policy=({"match": "tab*", "weight_bits": 8},)))
    table, stock = made.denoiser.module.table, signals().module.table
    labels = torch.arange(100)
    assert (table(labels) - stock(labels)).abs().max() <= 0.501 * table.weight_scale.max()
    assert "table" not in {part["name"] for part in made.facts["coverage"]["float"]}
    with pytest.raises(InputError, match="'tbl' matches no layer"):
        tempoquant.quantize(signals(), small_recipe("rtn", policy=({"match": "tbl", "weight_bits": 8},)))


def test_layers_that_groups_do_not_divide_are_named():
    recipe = grouped(small_recipe("rtn"), 16)
    found = tempoquant.quantize(signals(), recipe).facts["coverage"]
    assert found["ungrouped"] == ["first"]
    assert coverage_lines(found)[-1] == "one weight scale a channel, since groups do not divide its inputs: first"
    assert "ungrouped" not in tempoquant.quantize(signals(), small_recipe("rtn")).facts["coverage"]


PLUGIN = """
import torch
from diffusers import DDIMScheduler
from torch import nn

from tempoquant import Denoiser
from tempoquant.graph import StockKind
from tempoquant.layers import QuantizedLayer, layer_kind


class Transposed(nn.Module):
    # A Linear whose weight is (C_in, C_out), and is scaled as it multiplies.
    def __init__(self, inputs, outputs):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(inputs, outputs))
        self.bias = nn.Parameter(torch.zeros(outputs))
        self.gain = 0.2

    def forward(self, input):
        return input @ (self.weight * self.gain) + self.bias


@layer_kind(StockKind("transposed", Transposed, output_axis=1))
class QuantTransposed(QuantizedLayer, Transposed):
    def product(self, x, weight, bias=None):
        out = x @ weight * self.gain
        return out if bias is None else out + bias

    def input_vectors(self, x, most, rng):
        rows = x.reshape(-1, x.shape[-1]) * self.gain
        return rows if len(rows) <= most else rows[torch.randperm(len(rows), generator=rng)[:most]]


class Tokens(nn.Module):
    def __init__(self):
        super().__init__()
        self.time = nn.Linear(2, 32)
        self.first, self.last = Transposed(8, 32), Transposed(32, 8)

    def forward(self, sample, timestep):
        emb = self.time((timestep.float()[:, None] * torch.tensor([0.1, 0.01])).sin())
        return self.last(nn.functional.silu(self.first(sample) + emb[:, None]))


def make():
    torch.manual_seed(0)
    scheduler = DDIMScheduler(num_train_timesteps=100, clip_sample=False)
    return Denoiser(Tokens().eval(), scheduler, (4, 8), name="tokens")
"""


@pytest.fixture
def tables_of_kinds():
    """The tables of kinds; afterwards they are as before."""
    tables = (KINDS, LAYER_KINDS)
    before = [dict(table) for table in tables]
    yield tables
    for table, entries in zip(tables, before, strict=True):
        table.clear()
        table.update(entries)


@pytest.mark.usefixtures("tables_of_kinds")
@pytest.mark.parametrize(("method", "group_size"), [("rtn", None), ("tfmq-dm", None), ("brecq", None), ("tfmq-dm", 16)])
def test_a_kind_of_ones_own_is_one_file(tmp_path, method, group_size):
    (tmp_path / "tokens.py").write_text(PLUGIN)
    source = f"{tmp_path / 'tokens.py'}:make"
    full = full_precision(source)
    made = tempoquant.quantize(source, grouped(small_recipe(method), group_size), out=tmp_path / "out")
    layers = quantized_layers(made.denoiser.module)
    assert {name: layer.kind.name for name, layer in layers.items()} == {
        "time": "linear",
        "first": "transposed",
        "last": "transposed",
    }
    assert layers["first"].weight_scale.shape == (32, 1)
    assert layers["last"].weight_scale.shape == (8, 1 if group_size is None else 2)
    images = made.generate(2, seed=3, steps=4)
    exact = sample(full.denoiser, samples=2, seed=3, steps=4)
    assert (images - exact).abs().max() < 0.3 * exact.abs().max()
    loaded = tempoquant.load(tmp_path / "out", denoiser=full.denoiser)
    assert torch.equal(loaded.generate(2, seed=3, steps=4), images)
    report = made.use_engine("integer")
    assert report["last"] == f"simulation ({'no operator for transposed' if group_size is None else 'grouped weight'})"
