"""Inputs quantized per token or dynamically, from the recipe to a folder and back."""

import json

import pytest
import torch

import tempoquant
from tempoquant.checkpoint import component_sizes
from tempoquant.checkpoint.blueprint import interval_providers
from tempoquant.diagnosis.same_inputs import intervals_in_use
from tempoquant.errors import FormatError, InputError
from tempoquant.exporting.traceable import PlainGraph
from tempoquant.intervals import DynamicInterval, TokenInterval
from tempoquant.kernels import Reason, Unsupported, unsupported
from tempoquant.layers import quantized_layers, quantized_products
from tempoquant.numerics import PerToken
from tempoquant.pipelines import resolve
from tiny import changed_recipe, small_recipe, unet_pipeline

pytestmark = pytest.mark.usefixtures("brief")
SCALES = {
    "dynamic": {"dynamic": True},
    "symmetric dynamic tokens": {"dynamic": True, "granularity": "per-token", "symmetric": True},
    "tokens": {"granularity": "per-token"},
    "tokens by step": {"granularity": "per-token", "steps": "per-step"},
}


def scaled(method="rtn", **activations):
    return changed_recipe(small_recipe(method), activations={"range": "minmax", **activations})


@pytest.mark.parametrize("name", SCALES)
def test_images_are_the_same_after_loading(name, tmp_path):
    recipe = scaled(**SCALES[name])
    made = tempoquant.quantize(unet_pipeline(), recipe, out=tmp_path / "out")
    again = tempoquant.load(tmp_path / "out")
    assert again.recipe == recipe
    run = {"steps": 4, "seed": 3}
    images = made.generate(2, **run)
    assert torch.equal(images, again.generate(2, **run))
    assert (images - resolve(unet_pipeline()).generate(2, **run)).abs().mean() < 0.2
    module = made.denoiser.module
    image = {n: m for n, m in quantized_layers(module).items() if "time" not in n and "conv" not in n}
    kind = DynamicInterval if recipe.activations.dynamic else TokenInterval
    linears = [m for n, m in image.items() if ".to_" in n]
    assert len(linears) > 5 and all(isinstance(m.input_interval, kind) for m in linears)
    assert all((m.input_interval.granularity == PerToken()) == ("tokens" in name) for m in linears)
    convolution = module.get_submodule("conv_out").input_interval
    assert convolution.granularity != PerToken() and convolution.dynamic == recipe.activations.dynamic
    operands = {o: p for product in quantized_products(module).values() for o, p in product.intervals.items()}
    expected = "qkp" if name.endswith("dynamic tokens") else ""
    assert [o for o, p in operands.items() if p.granularity == PerToken()] == [*expected]


@pytest.mark.parametrize(
    ("method", "activations"),
    [
        ("brecq", {"dynamic": True, "learn": False}),
        ("tempo-fast", {"granularity": "per-token"}),
        ("tempo", {"dynamic": True, "granularity": "per-token", "steps": "constant", "learn": False}),
    ],
)
def test_reconstruction_and_tuning_go_with_them(method, activations, tmp_path):
    recipe = scaled(method, **activations)
    recipe = recipe if recipe.tuning is None else changed_recipe(recipe, tuning={"iterations": 2})
    made = tempoquant.quantize(unet_pipeline(), recipe, out=tmp_path / "out")
    providers = interval_providers(made.denoiser.module)
    assert sum(isinstance(p, DynamicInterval | TokenInterval) for p in providers) > 5
    run = {"steps": 4, "seed": 3}
    assert torch.equal(made.generate(2, **run), tempoquant.load(tmp_path / "out").generate(2, **run))


@pytest.mark.parametrize("name", SCALES)
def test_kernels_leave_them_to_simulation_and_name_them(name):
    made = tempoquant.quantize(unet_pipeline(), scaled(**SCALES[name]))
    layer = made.denoiser.module.get_submodule("mid_block.attentions.0.to_q")
    reason = Reason.DYNAMIC_INPUT if "dynamic" in name else Reason.PER_TOKEN_INPUT
    assert unsupported("onednn", layer) == Unsupported(reason)
    convolution = unsupported("onednn", made.denoiser.module.get_submodule("mid_block.resnets.0.conv1"))
    assert convolution == (Unsupported(Reason.DYNAMIC_INPUT) if "dynamic" in name else None)


@pytest.mark.parametrize("name", SCALES)
def test_they_have_a_plain_graph_and_ranges(name):
    made = tempoquant.quantize(unet_pipeline(), scaled(**SCALES[name]))
    made.use_engine("simulation")
    x, t = torch.randn(2, 1, 8, 8, generator=torch.Generator().manual_seed(0)), torch.tensor([0, 25])
    with torch.no_grad():
        found, expected = PlainGraph(made.denoiser, made.clock)(x, t), made.denoiser(x, t)
    assert (found - expected).norm() < 0.03 * expected.norm()
    low, high = intervals_in_use(made, ["conv_out", "mid_block.attentions.0.to_q"], t).unbind(-1)
    dynamic = made.recipe.activations.dynamic
    assert bool((low < high).all()) != dynamic and bool(low.isnan().all()) == dynamic


def test_a_folder_says_what_scales_it_has(tmp_path):
    recipe = scaled(**SCALES["tokens by step"])
    made = tempoquant.quantize(unet_pipeline(), recipe, out=tmp_path / "out")
    config = json.loads((tmp_path / "out" / "unet" / "config.json").read_text())["quantization_config"]
    assert config["format_version"] == 2
    stored = [entry for entry in config["intervals"] if entry["kind"] == "tokens"]
    assert stored and all(entry == {"kind": "tokens", "bits": 8, "tokens": 16, "by_step": True} for entry in stored)
    scales = sum(p.scale.numel() for p in interval_providers(made.denoiser.module) if p.by_row)
    single = [p for p in interval_providers(made.denoiser.module) if p.kind == "constant"]
    # A byte a zero point and four a scale; those of one value are no tables.
    assert component_sizes(tmp_path / "out" / "unet", 1).tables == 5 * scales and single


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"tokens": 0}, "intervals.0: tokens = 0"),
        ({"tokens": 17}, "too short"),
        ({"token": 3}, "unknown entry 'token'"),
        ({"kind": "token"}, "unknown kind of interval 'token': did you mean tokens"),
        ({"kind": "dynamic"}, "intervals.0"),
    ],
)
def test_a_damaged_entry_is_named(change, message, tmp_path):
    recipe = scaled(**SCALES["tokens"])
    tempoquant.quantize(unet_pipeline(), recipe, out=tmp_path / "out")
    (tmp_path / "out" / "tempoquant.json").unlink()
    place = tmp_path / "out" / "unet" / "config.json"
    config = json.loads(place.read_text())
    entries = config["quantization_config"]["intervals"]
    entries[:] = [entry | change if entry["kind"] == "tokens" else entry for entry in entries]
    first = next(i for i, entry in enumerate(entries) if change.items() <= entry.items())
    place.write_text(json.dumps(config))
    with pytest.warns(UserWarning), pytest.raises(FormatError) as refusal:
        tempoquant.load(tmp_path / "out")
    assert message.replace("intervals.0", f"intervals.{first}") in str(refusal.value)


def test_a_method_that_learns_step_sizes_refuses_dynamic_ones():
    with pytest.raises(InputError, match="leave out learn"):
        scaled("brecq", dynamic=True)
