"""Models in half precision are quantized as float32 copies."""

import copy

import pytest
import torch

import tempoquant
from tempoquant.pipelines import BareModel, DiffusersModel
from tempoquant.pipelines.precision import conditioning_in_float32, in_float32
from tempoquant.reconstruction.effort import EFFORTS, Effort
from tiny import bare_denoiser, small_recipe, unet_pipeline


def dtypes(module: torch.nn.Module) -> set[torch.dtype]:
    return {tensor.dtype for tensor in module.state_dict().values()}


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("effort", ["fast", "balanced"])
def test_a_half_precision_pipeline_equals_its_float32_copy(dtype, effort):
    half = unet_pipeline().to(dtype)
    full = copy.deepcopy(half).to(torch.float32)
    recipe = small_recipe(effort=effort)
    images = [tempoquant.quantize(pipe, recipe).generate(1, steps=2, seed=0) for pipe in (half, full)]
    assert torch.equal(*images)
    assert dtypes(half.unet) == {dtype}


def test_a_half_precision_bare_denoiser_is_quantized():
    denoiser = bare_denoiser()
    denoiser.module.half()
    quantized = tempoquant.quantize(denoiser, small_recipe())
    assert torch.float16 not in dtypes(quantized.denoiser.module)
    assert dtypes(denoiser.module) == {torch.float16}


def test_float32_models_are_not_copied():
    for target in (BareModel(bare_denoiser()), DiffusersModel(unet_pipeline())):
        assert in_float32(target).denoiser.module is target.denoiser.module


def test_nested_conditioning_becomes_float32_and_integers_stay():
    given = {"labels": torch.tensor([1]), "added": {"text": torch.ones(1, 2, dtype=torch.float16)}, "scale": 3.0}
    made = conditioning_in_float32(given)
    assert made["labels"].dtype == torch.int64
    assert made["added"]["text"].dtype == torch.float32
    assert made["scale"] == 3.0


def test_quantizing_within_inference_mode_learns_all_the_same(monkeypatch):
    monkeypatch.setitem(EFFORTS, "balanced", Effort(True, 20, 4, 20, 5e-2))

    def image(effort):
        return tempoquant.quantize(unet_pipeline(), small_recipe(effort=effort)).generate(1, steps=2, seed=0)

    with torch.inference_mode():
        within = image("balanced")
    assert torch.equal(within, image("balanced"))
    assert not torch.equal(within, image("fast"))
