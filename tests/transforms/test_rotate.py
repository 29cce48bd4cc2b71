"""Rotated layers: the same map in full precision, quantized by every rounding method, saved and loaded."""

import copy

import pytest
import torch
from torch import nn

import tempoquant
from tempoquant.errors import FormatError, InputError
from tempoquant.layers import quantized_layers
from tempoquant.methods import method_recipe
from tempoquant.numerics import affine_qparams, dequantize, nearest, quantize, rotate, weight_qparams
from tempoquant.pipelines import resolve
from tempoquant.planning import read
from tempoquant.recipe import Recipe
from tempoquant.stages import probe_of
from tempoquant.transforms import LayerTransform, Rotate, Split, install_transforms
from tempoquant.transforms.rotate import RotatedLayer
from tiny import SMALL, unet_pipeline

LAYERS = {
    "linear": (nn.Linear(32, 3), (2, 5, 32)),
    "1x1": (nn.Conv2d(32, 3, 1), (2, 32, 4, 4)),
    "strided": (nn.Conv2d(32, 3, 3, stride=2, padding=1, bias=False), (2, 32, 5, 5)),
    "dilated": (nn.Conv2d(32, 3, 3, padding=2, dilation=2, padding_mode="reflect"), (2, 32, 6, 6)),
}


@pytest.mark.parametrize("group", [4, 16])
@pytest.mark.parametrize("name", LAYERS)
def test_a_rotated_layer_is_the_layer(name, group):
    layer, shape = LAYERS[name]
    x, weight = torch.randn(shape), layer.weight.clone()
    turned = RotatedLayer(layer.eval(), group)
    torch.testing.assert_close(turned(x), layer(x))
    assert not torch.allclose(turned.rotated.weight, weight) and torch.equal(layer.weight, weight)
    assert turned.rotated.bias is layer.bias and not turned.training and not turned.rotated.training


def test_an_outlier_channel_no_longer_widens_the_grid():
    draw = torch.Generator().manual_seed(0)
    layer = nn.Linear(64, 32)
    x = torch.randn(512, 64, generator=draw)
    x[:, 7] *= 50

    def error(x, weight):
        grid = affine_qparams(x.min(), x.max(), 8)
        on_grid = dequantize(
            quantize(x, grid.scale, grid.zero_point, grid.q_min, grid.q_max), grid.scale, grid.zero_point
        )
        return float(((on_grid - x) @ weight.T).square().mean())

    weight = layer.weight.detach()
    assert error(rotate(x, 64, -1), rotate(weight, 64, -1)) < 0.1 * error(x, weight)


@pytest.mark.parametrize(("name", "group"), [("none", 4), ("layer", 16), ("layer", 8), ("norm", 4), ("grouped", 4)])
def test_what_cannot_be_rotated_is_named(name, group):
    parts = {"layer": nn.Linear(24, 2), "norm": nn.LayerNorm(4), "grouped": nn.Conv2d(8, 8, 1, groups=2)}
    with pytest.raises(FormatError, match=f"called '{name}' to rotate in groups of {group}"):
        install_transforms(nn.ModuleDict(parts), [LayerTransform(name, Rotate(group))])


def test_both_parts_of_a_split_layer_can_be_rotated():
    net = nn.ModuleDict({"layer": nn.Linear(12, 3)})
    x, stock = torch.randn(5, 12), copy.deepcopy(net["layer"])
    steps = [("layer", Split(4)), ("layer.first", Rotate(4)), ("layer.second", Rotate(4))]
    install_transforms(net, [LayerTransform(*step) for step in steps])
    torch.testing.assert_close(net["layer"](x), stock(x))
    assert [n for n, m in net.named_modules() if isinstance(m, nn.Linear)] == [
        "layer.first.rotated",
        "layer.second.rotated",
    ]


def rotated(method: str, *rules: dict, weights: int = 4, **changes) -> Recipe:
    recipe = method_recipe(method, weights=weights, calibration=SMALL, **changes)
    return Recipe.parse(recipe.model_dump(mode="json") | {"transforms": list(rules)})


def test_a_recipe_of_rotations_changes_nothing_in_full_precision():
    pipe, recipe = unet_pipeline(), rotated("q-diffusion", {"kind": "rotate", "group": 4})
    reading = read(probe_of(resolve(pipe), recipe), recipe)
    prepared = copy.deepcopy(pipe.unet)
    install_transforms(prepared, reading.transforms)
    assert len([m for m in prepared.modules() if isinstance(m, RotatedLayer)]) > 10
    x, t = torch.randn(2, 1, 8, 8), torch.tensor([30, 30])
    with torch.no_grad():
        torch.testing.assert_close(prepared(x, t).sample, pipe.unet(x, t).sample)


@pytest.mark.parametrize("effort", ["fast", "balanced"])
@pytest.mark.parametrize("method", ["rtn", "tfmq-dm", "q-diffusion"])
def test_every_rounding_carries_it_and_the_folder_draws_the_same(method, effort, tmp_path):
    rules = [{"kind": "rotate", "group": 4}, {"kind": "rotate", "group": 16, "match": "mid_block.*"}]
    made = tempoquant.quantize(unet_pipeline(), rotated(method, *rules, effort=effort), out=tmp_path / "out")
    layers = quantized_layers(made.denoiser.module)
    groups = {n: m.group for n, m in made.denoiser.module.named_modules() if isinstance(m, RotatedLayer)}
    assert groups["mid_block.resnets.0.conv1"] == 16 and groups["up_blocks.0.resnets.0.conv1"] == 4
    # One input channel: nothing to mix. Temporal layers stay as they are.
    assert "conv_in" not in groups and not any("time_emb" in name for name in groups)
    assert layers["mid_block.resnets.0.conv1.rotated"].weight.dtype == torch.int8
    # Split first, where a method splits: the parts are rotated.
    assert ("up_blocks.0.resnets.0.conv_shortcut.first" in groups) == (method == "q-diffusion")
    images = made.generate(2, steps=4, seed=3)
    assert torch.equal(tempoquant.load(tmp_path / "out").generate(2, steps=4, seed=3), images)
    made.use_engine("simulation")
    torch.testing.assert_close(made.generate(2, steps=4, seed=3), images, rtol=0, atol=0.02)


def test_the_stored_integers_are_those_of_the_rotated_weight():
    made = tempoquant.quantize(unet_pipeline(), rotated("rtn", {"kind": "rotate", "group": 4}))
    stock, name = unet_pipeline().unet.mid_block.resnets[0].conv1, "mid_block.resnets.0.conv1"
    weight = rotate(stock.weight.detach().double(), 4, 1).float()
    grid = weight_qparams(weight, 4, False, made.recipe.weights.range)
    layer = made.denoiser.module.get_submodule(f"{name}.rotated")
    differ = layer.weight.int() != nearest(weight, grid).int()
    assert float(differ.float().mean()) < 0.01


@pytest.mark.parametrize(
    ("rule", "line"),
    [
        ({"kind": "rotate", "match": "nobody*"}, "transforms: rotate 'nobody\\*' matches no layer of this denoiser"),
        ({"kind": "rotate", "group": 64}, "no quantized image layer that it matches has a multiple of 64 channels"),
        ({"kind": "rotate", "group": 16, "match": "conv_in"}, "has a multiple of 16 channels"),
    ],
)
def test_rotations_that_reach_nothing_are_refused(rule, line):
    with pytest.raises(InputError, match=line):
        tempoquant.quantize(unet_pipeline(), rotated("rtn", rule))


@pytest.mark.parametrize(
    ("rule", "line"),
    [
        ({"kind": "twist"}, "transforms.0.kind = 'twist'"),
        ({"kind": "rotate", "group": 32}, "transforms.0.group = 32"),
        ({"kind": "rotate", "match": "@nowhere"}, "valid roles"),
        ({"kind": "rotate", "size": 4}, "size"),
    ],
)
def test_recipes_that_say_no_rotation_are_refused(rule, line):
    with pytest.raises(InputError, match=line):
        rotated("rtn", rule)
