"""Split shortcuts through the whole job: which layers, their grids, and the folder."""

import importlib.util
import json
import os
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import DDIMScheduler
from torch import Tensor, nn

import tempoquant
from older import without_digest
from tempoquant.checkpoint.blueprint import quantized_layers
from tempoquant.graph import read_denoiser
from tempoquant.pipelines import resolve
from tempoquant.planning.plan import plan_layers
from tempoquant.planning.transforms import layer_transforms, transformed_graph, transformed_plans
from tempoquant.recipe import Recipe
from tempoquant.sampling.denoiser import Denoiser
from tempoquant.stages import probe_of
from tempoquant.transforms.split import SplitLayer
from tiny import small_recipe, unet_pipeline

WEIGHTS = Path("unet") / "diffusion_pytorch_model.safetensors"
# The first part is h, as wide as what the block above put out.
SHORTCUTS = {f"up_blocks.{i}.resnets.{j}.conv_shortcut": (16, 16, 16, 8)[2 * i + j] for i in (0, 1) for j in (0, 1)}


def split_recipe(method: str = "tfmq-dm", **changes: Any) -> Recipe:
    data = small_recipe(method, **changes).model_dump()
    return Recipe.parse({**data, "weights": {**data["weights"], "split_shortcuts": True}})


class PlainUNet(nn.Module):
    """Of no known class: a skip connection joined into a convolution of the main path and a Linear over pixels."""

    def __init__(self):
        super().__init__()
        self.time = nn.Linear(2, 4)
        self.first, self.down = nn.Conv2d(1, 4, 3, padding=1), nn.Conv2d(4, 6, 3, padding=1)
        self.join, self.mix = nn.Conv2d(10, 4, 3, padding=1), nn.Linear(8, 4)
        self.last = nn.Conv2d(4, 1, 3, padding=1)

    def forward(self, sample: Tensor, timestep: Tensor) -> Tensor:
        angle = timestep.float()[:, None] / torch.tensor([3.0, 50.0])
        skip = self.first(sample)
        h = torch.relu(self.down(skip)) + 0
        h = self.join(torch.cat([h, 8 * skip], 1)) + self.time(angle.sin())[:, :, None, None]
        pixels = torch.cat([h.permute(0, 2, 3, 1), skip.permute(0, 2, 3, 1)], -1)
        return self.last(self.mix(pixels).permute(0, 3, 1, 2))


def plain_denoiser(seed: int = 0) -> Denoiser:
    torch.manual_seed(seed)
    scheduler = DDIMScheduler(num_train_timesteps=100, clip_sample=False)
    return Denoiser(PlainUNet().eval(), scheduler, (1, 8, 8), name="plain")


def parts_of(module: nn.Module) -> dict[str, int]:
    return {n: m.split for n, m in module.named_modules() if isinstance(m, SplitLayer)}


def test_the_parts_stand_in_graph_and_plans():
    target = resolve(unet_pipeline())
    policy = [{"match": "up_blocks.0.*.conv_shortcut", "weight_bits": 8}, {"match": "@shortcut", "activation_bits": 6}]
    recipe = split_recipe(policy=policy)
    graph = read_denoiser(probe_of(target, recipe))
    plans = plan_layers(graph, recipe)
    splits = layer_transforms(target.denoiser.module, graph, plans, recipe)
    assert {layer: split.channels for layer, split in splits} == SHORTCUTS
    halved, plans = transformed_graph(graph, splits), transformed_plans(plans, splits)
    name, unit = "up_blocks.1.resnets.1.conv_shortcut", "up_blocks.1.resnets.1"
    shapes = {layer.name: layer.shape for layer in halved.layers}
    assert shapes[f"{name}.first"] == shapes[f"{name}.second"] == (8, 8, 1, 1) and name not in shapes
    assert shapes["up_blocks.0.resnets.1.conv_shortcut.second"] == (16, 8, 1, 1)
    assert [layer.order for layer in halved.layers] == list(range(len(graph.layers) + 4))
    found = next(u for u in halved.units if u.name == unit)
    assert found.layers == (f"{unit}.conv1", f"{unit}.conv2", f"{name}.first", f"{name}.second")
    bits = {n: (p.weight_bits, p.activation_bits) for n, p in plans.items() if "conv_shortcut." in n}
    assert len(bits) == 8 and {n for n, b in bits.items() if b == (8, 6)} == {n for n in bits if "up_blocks.0" in n}
    assert {b for n, b in bits.items() if "up_blocks.1" in n} == {(4, 6)}


@pytest.mark.parametrize("effort", ["fast", "balanced"])
@pytest.mark.parametrize("kind", ["unet", "denoiser"])
def test_a_split_model_quantizes_saves_and_loads_bit_for_bit(kind, effort, tmp_path):
    model = unet_pipeline() if kind == "unet" else plain_denoiser()
    splits = SHORTCUTS if kind == "unet" else {"join": 6, "mix": 4}
    whole = tempoquant.quantize(model, small_recipe(effort=effort), recording=tmp_path / "r", out=tmp_path / "whole")
    recipe = split_recipe(effort=effort)
    made = tempoquant.quantize(model, recipe, recording=tmp_path / "r", out=tmp_path / "out")
    module, layers = made.denoiser.module, quantized_layers(made.denoiser.module)
    assert parts_of(module) == splits and not parts_of(whole.denoiser.module)
    for name in splits:
        first, second = layers[f"{name}.first"], layers[f"{name}.second"]
        assert first.weight.dtype == second.weight.dtype == torch.int8
        assert not torch.equal(first.weight_scale, second.weight_scale)
        assert first.input_interval is not second.input_interval
        assert float(first.input_interval.scale) != float(second.input_interval.scale)
    again = tempoquant.load(tmp_path / "out", denoiser=plain_denoiser(9) if kind == "denoiser" else None)
    run = {"steps": 4, "seed": 3}
    images = made.generate(2, **run)
    assert torch.equal(images, again.generate(2, **run)) and not torch.equal(images, whole.generate(2, **run))
    again.save_pretrained(tmp_path / "copy")
    for name in (WEIGHTS.name, "config.json"):
        assert (tmp_path / "copy" / kind / name).read_bytes() == (tmp_path / "out" / kind / name).read_bytes()
    assert made.facts["size"]["full"] == whole.facts["size"]["full"]
    # The same 4-bit weights, and one more scale and zero point for every output channel of a split layer.
    grids = sum(len(layers[f"{name}.second"].weight_scale) for name in splits)
    assert made.facts["size"]["weights"] == whole.facts["size"]["weights"]
    assert made.facts["size"]["total"] == whole.facts["size"]["total"] + 5 * (grids + len(splits))


def test_what_the_policy_leaves_float_is_not_split():
    float_bits = {"weight_bits": 32, "activation_bits": 32}
    policy = [{"match": "@shortcut", **float_bits}, {"match": "up_blocks.1.resnets.1.conv_shortcut", "weight_bits": 4}]
    made = tempoquant.quantize(unet_pipeline(), split_recipe("rtn", policy=policy))
    name = "up_blocks.1.resnets.1.conv_shortcut"
    assert parts_of(made.denoiser.module) == {name: 8}
    kept = made.denoiser.module.get_submodule(f"{name}.first")
    assert kept.weight_bits == 4 and kept.input_interval is None


def test_older_folders_load_without_the_key(tmp_path):
    made = tempoquant.quantize(unet_pipeline(), small_recipe("rtn"), out=tmp_path / "out")
    path = tmp_path / "out" / "unet" / "config.json"
    config = json.loads(path.read_text())
    assert config["quantization_config"].pop("transforms") == []
    del config["quantization_config"]["recipe"]["weights"]["split_shortcuts"]
    path.write_text(json.dumps(config))
    without_digest(tmp_path / "out")
    with pytest.warns(UserWarning, match="unverified"):
        again = tempoquant.load(tmp_path / "out")
    assert torch.equal(made.generate(1, steps=2, seed=0), again.generate(1, steps=2, seed=0))


FOLDER = os.environ.get("TEMPOQUANT_ANIME64")


@pytest.mark.skipif(FOLDER is None, reason="TEMPOQUANT_ANIME64 names no folder with anime64.py")
def test_a_narrow_anime64_is_split():
    spec = importlib.util.spec_from_file_location("anime64", Path(FOLDER) / "anime64.py")
    anime64 = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(anime64)
    torch.manual_seed(0)
    unet = anime64.Anime64UNet(widths=(8, 16), attention=(False, True), blocks_per_level=1).eval()
    denoiser = Denoiser(unet, DDIMScheduler(num_train_timesteps=300, clip_sample=False), (3, 8, 8))
    made = tempoquant.quantize(denoiser, split_recipe())
    assert parts_of(made.denoiser.module) == {f"up.{i}.0.skip": 8 if i == 4 else 16 for i in (0, 1, 3, 4)}
    assert torch.isfinite(made.generate(1, steps=4, seed=0)).all()
