"""Biases that take off the mean error of a layer's output: by float64, and through the whole job."""

import pytest
import torch
from torch import nn

import tempoquant
from tempoquant.layers import QuantizedLayer, to_quantized
from tempoquant.numerics.weights import weight_qparams
from tempoquant.randomness import rng
from tempoquant.reconstruction.unit import LayerRounding, compensate, compensate_about_mean
from tiny import small_recipe, unet_pipeline


def shifted_layer() -> tuple[QuantizedLayer, torch.Tensor, torch.Tensor]:
    """A linear layer, and inputs of two streams whose mean is large beside their spread."""
    torch.manual_seed(0)
    layer = to_quantized(nn.Linear(40, 12).requires_grad_(False))
    mean = 3 * torch.randn(40, generator=rng("mean"))
    full = mean + torch.randn(200, 40, generator=rng("x"))
    return layer, full + 0.2 * torch.randn(200, 40, generator=rng("noise")) + 0.1, full


def errors(layer, integers, grid, shift, quantized, full):
    """The error of the layer's output in float64, (200, 12)."""
    weight = integers.double() * grid.scale.double()
    return full.double() @ layer.weight.double().T - quantized.double() @ weight.T - shift


@pytest.mark.parametrize("rounding", ["reconstruct", "nearest"])
def test_no_mean_error_is_left(rounding):
    layer, quantized, full = shifted_layer()
    grid = weight_qparams(layer.weight.detach(), 4, False, "mse")
    job = LayerRounding(layer, layer.weight.detach(), grid, quantized, full, 8, ("key",), rounding)
    plain, about_mean = compensate(job), compensate_about_mean(job)
    before = errors(layer, plain.integers, plain.qparams, 0, quantized, full)
    after = errors(layer, about_mean.integers, about_mean.qparams, about_mean.bias_shift.double(), quantized, full)
    assert after.mean(0).abs().max() < 1e-5 < 1e-3 < before.mean(0).abs().max()
    # The spread gains too where rounding knows of its inputs: what the bias takes off is not rounded for.
    assert after.square().mean() < before.square().mean()
    assert rounding == "nearest" or after.var(0).mean() < before.var(0).mean()


def test_biases_are_fitted_only_where_the_recipe_says_so(tmp_path):
    pipe, images = unet_pipeline(), []
    for fit in (False, True):
        recipe = small_recipe("tempo-fast")
        recipe = recipe.model_copy(update={"weights": recipe.weights.model_copy(update={"fit_bias": fit})})
        made = tempoquant.quantize(pipe, recipe, out=tmp_path / str(fit))
        full, found = dict(pipe.unet.named_parameters()), dict(made.denoiser.module.named_parameters())
        moved = {n for n in found if n.endswith(".bias") and not torch.equal(found[n], full[n])}
        rounded = {f"{n}.bias" for n, m in made.denoiser.module.named_modules() if isinstance(m, QuantizedLayer)}
        assert moved == (rounded & set(found) if fit else set())
        images.append(made.generate(1, seed=1, steps=4))
        assert torch.equal(tempoquant.load(tmp_path / str(fit)).generate(1, seed=1, steps=4), images[-1])
    assert not torch.equal(*images)
