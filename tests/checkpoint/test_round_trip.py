import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

import tempoquant
from tempoquant.checkpoint.blueprint import quantized_layers
from tempoquant.numerics import unpack
from tempoquant.pipelines import resolve
from tempoquant.recipe import Recipe
from tempoquant.sampling.denoiser import Denoiser
from tiny import Bare, bare_denoiser, small_recipe, unet_pipeline

WEIGHTS = "diffusion_pytorch_model.safetensors"
SETTINGS = [(4, 8, "paper"), (8, 8, "paper"), (3, 6, "paper"), (4, 32, "paper"), (16, 16, "paper"), (4, 8, "released")]


@pytest.mark.parametrize(("weights", "activations", "reading"), SETTINGS)
@pytest.mark.parametrize("kind", ["unet", "denoiser"])
def test_images_are_the_same_after_loading(kind, weights, activations, reading, tmp_path):
    model = unet_pipeline() if kind == "unet" else bare_denoiser()
    recipe = small_recipe(weights=weights, activations=activations, reading=reading)
    made = tempoquant.quantize(model, recipe, out=tmp_path / "out")
    again = tempoquant.load(tmp_path / "out", denoiser=bare_denoiser(seed=9) if kind == "denoiser" else None)
    run = {"steps": 4, "seed": 3}
    assert torch.equal(made.generate(2, **run), again.generate(2, **run))
    assert again.recipe == recipe
    assert not torch.equal(made.generate(2, **run), resolve(model).generate(2, **run))
    # What was loaded saves to the same bytes.
    again.save_pretrained(tmp_path / "copy")
    for name in (WEIGHTS, "config.json"):
        assert (tmp_path / "copy" / kind / name).read_bytes() == (tmp_path / "out" / kind / name).read_bytes()


@pytest.mark.parametrize("bits", [4, 3, 8, 16])
def test_integers_on_disk_are_those_in_memory(bits, tmp_path):
    made = tempoquant.quantize(unet_pipeline(), small_recipe("rtn", weights=bits), out=tmp_path / "out")
    stored = load_file(tmp_path / "out" / "unet" / WEIGHTS)
    layers = quantized_layers(made.denoiser.module)
    assert len(layers) > 20
    for name, layer in layers.items():
        packed, count = stored[f"{name}.weight"], layer.weight.numel()
        assert packed.dtype == torch.uint8 and packed.numel() == -(-count * bits // 8)
        if bits == 16:
            pairs = packed.int().view(-1, 2)
            q = pairs[:, 0] + 256 * pairs[:, 1]
        elif bits == 4:
            # Two values a byte, the first one in the low half.
            q = torch.stack([packed & 15, packed >> 4], 1).flatten()[:count].int()
        else:
            q = unpack(packed, bits, count)
        zero = layer.weight_zero.view(-1, *(1,) * (layer.weight.dim() - 1))
        assert torch.equal(q.view(layer.weight.shape) - zero, layer.weight.int())


def test_sizes_are_sums_of_tensor_bytes(tmp_path):
    pipe = unet_pipeline()
    size = tempoquant.quantize(pipe, small_recipe(), out=tmp_path / "out").facts["size"]
    path = tmp_path / "out" / "unet" / WEIGHTS
    stored = load_file(path)
    config = json.loads((path.parent / "config.json").read_text())["quantization_config"]
    fused_quantize_to_uint8 = {name: tensor.numel() * tensor.element_size() for name, tensor in stored.items()}
    assert size["total"] == sum(fused_quantize_to_uint8.values())
    assert size["weights"] == sum(fused_quantize_to_uint8[f"{name}.weight"] for name in config["layers"])
    assert size["headers"] == path.stat().st_size - size["total"]
    assert size["full"] == sum(4 * p.numel() for p in pipe.unet.parameters())
    tables = [entry for entry in config["intervals"] if entry["kind"] == "table"]
    assert 0 < len(tables) < 4 and size["tables"] == len(tables) * 4 * (4 + 1)
    assert size["ratio"] == size["full"] / size["total"]


@pytest.mark.parametrize(("bits", "smaller"), [(4, 7.0), (8, 3.8)])
def test_fashion32_is_as_small_as_its_bits_promise(bits, smaller, tmp_path):
    recipe = Recipe.parse(
        {
            "method": "tfmq-dm",
            "weights": {"bits": bits, "rounding": "nearest", "range": "minmax"},
            "temporal": {"reconstruction": "nearest", "calibration": "finite-set"},
            "calibration": {"samples": 1, "steps": 50, "rows": 1, "rows_per_step": 1},
            "activations": {"bits": 8},
        }
    )
    size = tempoquant.quantize("fashion32", recipe, out=tmp_path / "out").facts["size"]
    assert size["total"] <= size["full"] / smaller
    assert size["tables"] <= size["weights"] / 1000


def test_the_recipe_stands_in_quantization_config_and_nowhere_else(tmp_path):
    recipe = small_recipe("rtn", seed=7654321)
    tempoquant.quantize(unet_pipeline(), recipe, out=tmp_path / "out")
    config = json.loads((tmp_path / "out" / "unet" / "config.json").read_text())
    assert Recipe.parse(config.pop("quantization_config")["recipe"]) == recipe
    assert "recipe" not in json.dumps(config)
    facts = json.loads((tmp_path / "out" / "tempoquant.json").read_text())
    assert not {"recipe", "weights", "activations", "policy"} & facts.keys()


def test_no_pickle_is_written(tmp_path):
    tempoquant.quantize(
        unet_pipeline(), small_recipe(), out=tmp_path / "out", units=tmp_path / "u", recording=tmp_path / "r"
    )
    kinds = {path.suffix for path in Path(tmp_path).rglob("*") if path.is_file()}
    assert kinds == {".json", ".safetensors", ".bin"}
    for path in Path(tmp_path).rglob("*.bin"):
        assert path.name.startswith("samples.float16") and not path.read_bytes().startswith((b"PK", b"\x80"))


class Tied(nn.Module):
    """Two layers that share a weight, one of them float in the recipe."""

    def __init__(self):
        super().__init__()
        self.bare = Bare()
        self.table = nn.Embedding(4, 4)
        self.again = self.table

    def forward(self, sample, timestep):
        return self.bare(sample, timestep) + self.table.weight.mean() + self.again.weight.std()


def test_tensors_that_share_memory_are_stored(tmp_path):
    def make(seed):
        torch.manual_seed(seed)
        return Denoiser(Tied().eval(), bare_denoiser().scheduler, (1, 8, 8))

    made = tempoquant.quantize(make(0), small_recipe("rtn"), out=tmp_path / "out")
    again = tempoquant.load(tmp_path / "out", denoiser=make(1))
    assert torch.equal(made.generate(1, steps=2, seed=0), again.generate(1, steps=2, seed=0))
