"""Fused GroupNorms: one pass in place of norm, SiLU and rounding, and stock values for every other reader."""

import copy
import shutil

import pytest
import torch
from torch import nn

import tempoquant
from tempoquant.intervals import ScalarQParams
from tempoquant.kernels import norm_fusion as norms
from tempoquant.kernels import quantize as byte_pass
from tempoquant.kernels.check import integers_are_exact
from tempoquant.kernels.engine import use_engine
from tempoquant.kernels.norm_fusion import DeferredGroupNorm, enable_norm_fusion
from tempoquant.kernels.quantize import GroupNormParams, norm_silu_to_uint8
from tiny import small_recipe, unet_pipeline

if not integers_are_exact():
    pytest.skip("this processor's int8 operators are not exact", allow_module_level=True)

NUMBERS = ScalarQParams(scale=0.03, zero_point=10.0, q_min=0.0, q_max=255.0, output_scale=0.03)
needs_compiler = pytest.mark.skipif(shutil.which("cc") is None, reason="no C compiler")


def draw(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def params_of(norm: nn.GroupNorm) -> GroupNormParams:
    return GroupNormParams(norm.num_groups, norm.weight, norm.bias, norm.eps)


def norm_of(channels: int, groups: int) -> nn.GroupNorm:
    norm = nn.GroupNorm(groups, channels, eps=1e-3)
    norm.weight.data, norm.bias.data = draw(channels, seed=1), draw(channels, seed=2)
    return norm.requires_grad_(False)


@needs_compiler
@pytest.mark.parametrize(
    "shape", [(1, 8, 1, 1), (2, 12, 5, 7), (3, 64, 16, 16), (1, 512, 4, 4), (2, 40, 33, 2)], ids=str
)
@pytest.mark.parametrize("offset", [0.0, 30.0])
def test_one_pass_gives_the_bytes_of_float64(shape, offset):
    x, norm = draw(*shape) * 3 + offset, norm_of(shape[1], 4)
    exact = nn.functional.group_norm(x.double(), 4, norm.weight.double(), norm.bias.double(), norm.eps)
    exact = nn.functional.silu(exact) / NUMBERS.scale
    wanted = (exact.round() + NUMBERS.zero_point).clamp(NUMBERS.q_min, NUMBERS.q_max)
    for layout in (torch.contiguous_format, torch.channels_last):
        q = norm_silu_to_uint8(x.contiguous(memory_format=layout), params_of(norm), NUMBERS)
        assert q.dtype == torch.uint8 and q.is_contiguous(memory_format=torch.channels_last)
        off = (q.double() - wanted).abs()
        tie = (exact - exact.floor() - 0.5).abs()
        assert off.max() <= 1
        # Only where float32 cannot tell which side of a tie it is.
        assert (tie[off > 0] < 0.01).all()


@needs_compiler
def test_any_number_of_threads_gives_the_same_bytes():
    x, norm, threads = draw(2, 64, 32, 32), norm_of(64, 8), torch.get_num_threads()
    made = []
    try:
        for count in (1, 2, 3):
            torch.set_num_threads(count)
            made.append(norm_silu_to_uint8(x, params_of(norm), NUMBERS))
    finally:
        torch.set_num_threads(threads)
    assert torch.equal(made[0], made[1]) and torch.equal(made[0], made[2])


def test_every_other_reader_gets_the_stock_values():
    x, norm = draw(2, 8, 4, 4), norm_of(8, 2)
    stock = norm(x)
    module = nn.Sequential(norm)
    enable_norm_fusion(module, True)
    with torch.no_grad():
        deferred = norm(x)
        assert type(deferred) is DeferredGroupNorm
        assert (deferred.shape, deferred.dtype, deferred.device) == (stock.shape, stock.dtype, stock.device)
        assert torch.equal(deferred + 0, stock)
        assert torch.equal(deferred.flatten(2).transpose(1, 2), stock.flatten(2).transpose(1, 2))
        assert torch.equal(
            nn.functional.conv2d(deferred, torch.ones(3, 8, 1, 1)), nn.functional.conv2d(stock, torch.ones(3, 8, 1, 1))
        )
        through = nn.functional.silu(deferred)
        assert (
            type(through) is DeferredGroupNorm
            and type(nn.functional.dropout(through, 0.5, training=False)) is DeferredGroupNorm
        )
        assert torch.equal(through * 1, nn.functional.silu(stock))
        assert torch.equal(nn.functional.silu(through), nn.functional.silu(nn.functional.silu(stock)))
        assert torch.equal(nn.functional.silu(norm(x), inplace=True) * 1, nn.functional.silu(stock))
        assert torch.equal(torch.cat([through, stock]), torch.cat([nn.functional.silu(stock), stock]))


def test_norms_are_deferred_only_for_float32_without_gradients():
    norm, x = norm_of(8, 2), draw(2, 8, 4, 4)
    enable_norm_fusion(nn.Sequential(norm), True)
    twin = copy.deepcopy(norm)
    twin.weight.data.zero_()
    assert type(norm(x)) is torch.Tensor
    with torch.no_grad():
        assert type(norm(x.flatten(2))) is torch.Tensor
        assert type(norm(x)) is DeferredGroupNorm
        assert not torch.equal(norm(x) + 0, twin(x) + 0), "a copy computes with its own weight"
        traced = torch.jit.trace(norm, x)
        assert "group_norm" in str(traced.graph)
        enable_norm_fusion(nn.Sequential(norm), False)
        assert type(norm(x)) is torch.Tensor
        assert "forward" not in vars(norm)


@needs_compiler
def test_every_residual_convolution_of_a_unet_reads_one_pass(monkeypatch):
    q = tempoquant.quantize(unet_pipeline(), small_recipe("rtn"))
    module = q.denoiser.module
    q.use_engine("integer")
    calls, real = [], norm_silu_to_uint8
    monkeypatch.setattr(
        norms, "norm_silu_to_uint8", lambda x, norm, numbers: calls.append(norm) or real(x, norm, numbers)
    )
    x, t = draw(2, *q.denoiser.sample_shape), 500
    with torch.no_grad():
        fused = q.denoiser(x, t)
        resnets = [part for part in module.modules() if type(part).__name__ == "ResnetBlock2D"]
        wanted = {id(norm.weight) for block in resnets for norm in (block.norm1, block.norm2)}
        assert wanted <= {id(norm.weight) for norm in calls}
        assert len(calls) == len({id(norm.weight) for norm in calls})
        monkeypatch.setattr(byte_pass, "compiled_passes", lambda: None)
        apart = q.denoiser(x, t)
        use_engine(module, "simulation")
        simulated = q.denoiser(x, t)
    scale = simulated.norm()
    assert (apart - simulated).norm() / scale < 0.03
    assert (fused - simulated).norm() / scale < 0.03


def test_a_hook_on_a_convolution_sees_its_input():
    q = tempoquant.quantize(unet_pipeline(), small_recipe("rtn"))
    block = next(part for part in q.denoiser.module.modules() if type(part).__name__ == "ResnetBlock2D")
    q.use_engine("integer")
    seen = {}
    block.norm1.register_forward_pre_hook(lambda part, args: seen.update(source=args[0].clone()))
    block.conv1.register_forward_pre_hook(lambda part, args: seen.update(input=args[0].clone()))
    with torch.no_grad():
        q.denoiser(draw(1, *q.denoiser.sample_shape), 10)
        stock = nn.functional.group_norm(
            seen["source"], block.norm1.num_groups, block.norm1.weight, block.norm1.bias, block.norm1.eps
        )
    assert torch.equal(seen["input"], nn.functional.silu(stock))
