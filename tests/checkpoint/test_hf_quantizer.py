"""Quantized folders in plain diffusers: loading, saving again, dtypes, devices, compilation and adapters."""

import copy
import subprocess
import sys
from pathlib import Path

import accelerate
import pytest
import torch
from diffusers import AutoModel, DiffusionPipeline, UNet2DConditionModel, UNet2DModel
from peft import LoraConfig, inject_adapter_in_model
from safetensors.torch import load_file

import tempoquant
from conditional_models import text_pipeline
from tempoquant.checkpoint.blueprint import interval_providers, quantized_layers
from tempoquant.checkpoint.component import read_tensors
from tempoquant.checkpoint.hf_quantizer import TempoquantConfig
from tempoquant.errors import FormatError, InputError
from tempoquant.kernels.engine import engine_report, use_engine
from tiny import bare_denoiser, small_recipe, unet_pipeline


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("made") / "out"
    plain = small_recipe("rtn", weights=8)
    stepwise = plain.model_copy(update={"activations": plain.activations.model_copy(update={"steps": "per-step"})})
    tempoquant.quantize(unet_pipeline(), stepwise, out=out)
    return out


@pytest.fixture
def sample() -> torch.Tensor:
    return torch.randn(2, 1, 8, 8, generator=torch.Generator().manual_seed(0))


@pytest.fixture
def wanted(folder, sample) -> torch.Tensor:
    return run(tempoquant.load(folder).denoiser.module, sample)


def run(module, x, t=50):
    with torch.no_grad():
        return module(x, t).sample


@pytest.mark.parametrize("load", [DiffusionPipeline, UNet2DModel, AutoModel])
def test_diffusers_loads_a_quantized_folder(load, folder, sample, wanted):
    loaded = load.from_pretrained(str(folder if load is DiffusionPipeline else folder / "unet"))
    unet = loaded.unet if load is DiffusionPipeline else loaded
    assert type(unet) is UNet2DModel and not unet.training
    assert torch.equal(run(unet, sample), wanted)
    assert engine_report(unet) == engine_report(tempoquant.load(folder).denoiser.module)


@pytest.mark.parametrize("shard", ["10GB", "2KB"])
def test_saving_again_gives_the_same_model(shard, folder, sample, wanted, tmp_path):
    pipe = DiffusionPipeline.from_pretrained(folder)
    pipe.save_pretrained(tmp_path / "again", max_shard_size=shard)
    assert len(list((tmp_path / "again" / "unet").glob("*.safetensors"))) > (1 if shard == "2KB" else 0)
    stored, again = read_tensors(folder / "unet"), read_tensors(tmp_path / "again" / "unet")
    assert stored.keys() == again.keys()
    assert all(torch.equal(stored[name], again[name]) for name in stored)
    assert torch.equal(run(DiffusionPipeline.from_pretrained(tmp_path / "again").unet, sample), wanted)
    with pytest.warns(UserWarning, match="unverified"):
        ours = tempoquant.load(tmp_path / "again")
    assert torch.equal(run(ours.denoiser.module, sample), wanted)
    assert ours.recipe == tempoquant.load(folder).recipe


def test_what_was_quantized_or_loaded_here_is_saved_by_diffusers(folder, sample, wanted, tmp_path):
    tempoquant.load(folder).pipeline.save_pretrained(tmp_path / "again")
    assert torch.equal(run(DiffusionPipeline.from_pretrained(tmp_path / "again").unet, sample), wanted)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_a_dtype_is_for_the_float_parts_alone(dtype, folder, sample, wanted, tmp_path):
    full, half = (UNet2DModel.from_pretrained(folder / "unet", dtype=d) for d in (torch.float32, dtype))
    assert half.dtype == dtype and half.conv_norm_out.weight.dtype == dtype
    for mine, other in zip(interval_providers(half), interval_providers(full), strict=True):
        assert mine.scale.dtype == torch.float32 and torch.equal(mine.scale, other.scale)
    for mine, other in zip(quantized_layers(half).values(), quantized_layers(full).values(), strict=True):
        assert torch.equal(mine.weight, other.weight) and torch.equal(mine.weight_scale, other.weight_scale)
    out = run(half, sample.to(dtype))
    assert out.dtype == dtype
    assert (out.float() - wanted).norm() < 0.1 * wanted.norm()
    half.save_pretrained(tmp_path / "half")
    kept = ("tempoquant.weight_scale", "tempoquant.interval_scale", "conv_in.weight")
    first, second = (load_file(f / "diffusion_pytorch_model.safetensors") for f in (folder / "unet", tmp_path / "half"))
    assert all(torch.equal(first[name], second[name]) for name in kept)


def test_casting_is_refused_by_to_and_harmless_otherwise(folder, sample, wanted):
    unet = UNet2DModel.from_pretrained(folder / "unet")
    with pytest.raises(ValueError, match="unsupported"):
        unet.to(torch.float16)
    scales = [provider.scale.clone() for provider in interval_providers(unet)]
    torch.nn.Module.half(unet)
    assert all(torch.equal(p.scale, s) for p, s in zip(interval_providers(unet), scales, strict=True))
    assert torch.equal(run(UNet2DModel.from_pretrained(folder / "unet").to("cpu"), sample), wanted)


def test_mixed_steps_in_one_batch_get_their_own_rows(folder, sample):
    unet = UNet2DModel.from_pretrained(folder / "unet")
    use_engine(unet, "simulation")
    mixed = run(unet, sample, torch.tensor([75, 25]))
    alone = torch.cat([run(unet, sample[:1], 75), run(unet, sample[1:], 25)])
    swapped = torch.cat([run(unet, sample[:1], 25), run(unet, sample[1:], 75)])
    assert (mixed - alone).norm() < 0.05 * (mixed - swapped).norm()


def test_offloading_to_the_processor_and_device_maps_work(folder, sample, wanted):
    unet = UNet2DModel.from_pretrained(folder / "unet", device_map={"": "cpu"})
    assert torch.equal(run(unet, sample), wanted)
    unet, hook = accelerate.cpu_offload_with_hook(unet, torch.device("cpu"))
    assert torch.equal(run(unet, sample), wanted)
    hook.offload()
    unet = UNet2DModel.from_pretrained(folder / "unet")
    accelerate.cpu_offload(unet, torch.device("cpu"))
    assert torch.equal(run(unet, sample), wanted)


def test_offloading_to_disk_is_refused(folder, tmp_path):
    with pytest.raises(InputError, match="not offloaded to disk"):
        UNet2DModel.from_pretrained(folder / "unet", device_map={"": "disk"}, offload_folder=str(tmp_path))


def test_a_compiled_denoiser_computes_the_same(sample):
    made = tempoquant.quantize(bare_denoiser(), small_recipe("rtn")).denoiser
    with torch.no_grad():
        compiled = torch.compile(made.module, backend="eager")
        for t in (50, 90):
            steps = torch.full((2,), t)
            assert torch.equal(compiled(sample, steps), made.module(sample, steps))


@pytest.mark.slow
def test_a_compiled_unet_computes_the_same(folder, sample, wanted):
    unet = torch.compile(UNet2DModel.from_pretrained(folder / "unet"))
    assert torch.equal(run(unet, sample), wanted)
    assert not torch.equal(run(unet, sample, 90), wanted)


def test_lora_adapters_sit_on_top(folder, sample, wanted, tmp_path):
    unet = UNet2DModel.from_pretrained(folder / "unet")
    before = copy.deepcopy(unet)
    inject_adapter_in_model(LoraConfig(r=2, target_modules=["to_q", "conv1"]), unet)
    # An adapter starts as nothing added.
    assert torch.equal(run(unet, sample), wanted)
    for name, parameter in unet.named_parameters():
        if "lora_B" in name:
            parameter.data.normal_(generator=torch.Generator().manual_seed(1))
    assert not torch.equal(run(unet, sample), wanted)
    with pytest.raises(InputError, match="LoRA adapters on it"):
        unet.save_pretrained(tmp_path / "adapted")
    assert torch.equal(run(before, sample), wanted)


def test_fusing_an_adapter_is_refused(tmp_path):
    words = tmp_path / "words"
    words.mkdir()
    given = {"prompt": ["a b", "c"], "guidance_scale": 2.0}
    tempoquant.quantize(text_pipeline(words), small_recipe("rtn"), out=tmp_path / "out", conditioning=given)
    unet = UNet2DConditionModel.from_pretrained(tmp_path / "out" / "unet")
    unet.add_adapter(LoraConfig(r=2, target_modules=["to_q"]))
    with pytest.raises(InputError, match="cannot be fused into integer weights"):
        unet.fuse_lora()


def test_quantizing_while_loading_and_pickles_are_refused(folder, tmp_path):
    with pytest.raises(ValueError, match="require the model to be pre-quantized"):
        unet_pipeline().unet.save_pretrained(tmp_path / "plain")
        UNet2DModel.from_pretrained(tmp_path / "plain", quantization_config=TempoquantConfig())
    with pytest.raises(InputError, match="safetensors alone"):
        UNet2DModel.from_pretrained(folder / "unet").save_pretrained(tmp_path / "out", safe_serialization=False)


def test_a_folder_without_its_tables_is_named(folder, tmp_path):
    UNet2DModel.from_pretrained(folder / "unet").save_pretrained(tmp_path / "cut", max_shard_size="2KB")
    (tmp_path / "cut" / "diffusion_pytorch_model.safetensors.index.json").write_text('{"weight_map": {"a": "../x"}}')
    with pytest.raises(FormatError, match="outside of its folder"):
        read_tensors(tmp_path / "cut")


def test_corrections_that_diffusers_cannot_apply_are_told(tmp_path):
    made = tempoquant.quantize(unet_pipeline(), small_recipe("rtn", correction={"samples": 2}), out=tmp_path / "out")
    assert made.correction is not None
    with pytest.warns(UserWarning, match=r"use tempoquant\.load"):
        unet = UNet2DModel.from_pretrained(tmp_path / "out" / "unet")
    unet.save_pretrained(tmp_path / "again")
    assert read_tensors(tmp_path / "again").keys() == read_tensors(tmp_path / "out" / "unet").keys()


def test_importing_has_no_effect_but_the_registration():
    code = """
import diffusers.quantizers.auto as auto, torch
state = dict(auto.AUTO_QUANTIZER_MAPPING), torch.get_num_threads(), torch.get_default_dtype()
import tempoquant, sys
added = auto.AUTO_QUANTIZER_MAPPING.keys() - state[0].keys()
assert added == {"tempoquant"}, added
assert state[1:] == (torch.get_num_threads(), torch.get_default_dtype())
print([name for name in ("openvino", "onnx", "nncf", "matplotlib", "typer") if name in sys.modules])
"""
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert found.stdout.strip() == "[]", found
