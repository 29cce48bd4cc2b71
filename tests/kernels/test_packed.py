"""A packed weight is the plain one to whoever reads it, and is held once."""

import copy
import io

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

import tempoquant
from tempoquant.kernels.check import integers_are_exact
from tempoquant.kernels.packed_weight import PackedWeight
from tempoquant.layers import quantized_layers, simulate
from tiny import small_recipe, unet_pipeline

if not integers_are_exact():
    pytest.skip("this processor's int8 operators are not exact", allow_module_level=True)


@pytest.fixture
def plain():
    return tempoquant.quantize(unet_pipeline(), small_recipe("rtn"))


@pytest.fixture
def packed(plain):
    made = copy.deepcopy(plain)
    made.denoiser(torch.zeros(1, 1, 8, 8), 50)
    return made


def weights(made):
    return {name: layer.weight for name, layer in quantized_layers(made.denoiser.module).items()}


def same(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def test_every_weight_is_packed_by_the_first_call_and_reads_as_before(plain, packed):
    assert not any(isinstance(weight, PackedWeight) for weight in weights(plain).values())
    assert all(isinstance(weight, PackedWeight) for weight in weights(packed).values())
    assert same(weights(plain), weights(packed))
    for name, weight in weights(packed).items():
        kept = weights(plain)[name]
        assert (weight.shape, weight.dtype, weight.device) == (kept.shape, kept.dtype, kept.device)
        assert torch.equal(weight[0] * 2, kept[0] * 2)
        assert (weight.numpy() == kept.numpy()).all()


@pytest.mark.parametrize("options", [{"groups": 4}, {"groups": 16}, {"stride": 2}, {"dilation": 2}], ids=str)
def test_a_convolution_comes_back_whatever_its_geometry(options):
    from test_onednn import quantized

    from tempoquant.kernels.onednn import IntegerKernel

    layer, x = quantized(nn.Conv2d(16, 16, 3, padding=1, **options), 8, True), torch.randn(2, 16, 9, 7)
    before, wanted = layer.weight.clone(), simulate(layer, x)
    layer.kernel = IntegerKernel()
    for _ in range(2):
        assert torch.equal(layer(x), wanted)
    assert isinstance(layer.weight, PackedWeight)
    assert torch.equal(layer.weight, before)
    assert torch.equal(simulate(layer, x), wanted)


def test_copies_are_plain_and_draw_the_same(plain, packed):
    other = copy.deepcopy(packed)
    assert {type(weight) for weight in weights(other).values()} == {nn.Parameter}
    assert same(weights(other), weights(plain))
    assert torch.equal(other.generate(1, steps=4, seed=0), packed.generate(1, steps=4, seed=0))
    file = io.BytesIO()
    torch.save(packed.denoiser.module.state_dict(), file)
    file.seek(0)
    again = torch.load(file)
    assert same(again, plain.denoiser.module.state_dict())
    assert not any(isinstance(tensor, PackedWeight) for tensor in again.values())


def test_saved_bytes_do_not_depend_on_it(plain, packed, tmp_path):
    for made, name in ((plain, "plain"), (packed, "packed")):
        made.save_pretrained(tmp_path / name)
    files = [tmp_path / name / "unet" / "diffusion_pytorch_model.safetensors" for name in ("plain", "packed")]
    assert files[0].read_bytes() == files[1].read_bytes()
    assert load_file(files[0])


def test_simulation_and_other_machines_hold_plain_weights(plain, packed):
    moved = copy.deepcopy(packed).denoiser.module
    moved.conv_in(torch.zeros(1, 1, 8, 8))
    assert isinstance(moved.conv_in.weight, PackedWeight)
    nn.Module.to(moved, "meta")
    assert (moved.conv_in.weight.device.type, type(moved.conv_in.weight)) == ("meta", nn.Parameter)
    assert isinstance(packed.denoiser.module.to("cpu").conv_in.weight, PackedWeight)
    packed.use_engine("simulation")
    assert {type(weight) for weight in weights(packed).values()} == {nn.Parameter}
    assert same(weights(packed), weights(plain))


def test_an_engine_chosen_again_packs_again(packed):
    first = packed.generate(1, steps=4, seed=0)
    packed.use_engine("integer")
    assert torch.equal(packed.generate(1, steps=4, seed=0), first)


def test_it_cannot_be_changed_in_place(packed):
    weight = packed.denoiser.module.conv_in.weight
    with pytest.raises(RuntimeError, match="cannot be changed in place"):
        weight.zero_()
    assert "PackedWeight(tensor(" in repr(weight)
