"""Integer kernels give simulation's bits, layer by layer, and no layer falls back unseen."""

import copy
import os
import platform
import shutil
import subprocess
import sys

import numpy as np
import pytest
import torch
from torch import nn

import tempoquant
from tempoquant.errors import InputError
from tempoquant.intervals import Clock, ConstantInterval, TableInterval
from tempoquant.kernels import quantize as byte_pass
from tempoquant.kernels.backends import Reason, Unsupported, unsupported
from tempoquant.kernels.check import integers_are_exact
from tempoquant.kernels.compiled import COMPILER, compiled_passes
from tempoquant.kernels.engine import engine_report, use_engine
from tempoquant.kernels.onednn import IntegerKernel
from tempoquant.kernels.quantize import ScalarQParams, dequantize_centered, quantize_to_uint8
from tempoquant.layers import QuantizedLayer, simulate, to_quantized
from tempoquant.numerics import QParams, affine_qparams, quantize
from tempoquant.numerics.weights import nearest, weight_qparams
from tiny import small_recipe, unet_pipeline

if not integers_are_exact():
    pytest.skip("this processor's int8 operators are not exact", allow_module_level=True)


def draw(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def quantized(stock: nn.Module, bits: int = 4, symmetric: bool = False, activation_bits: int = 8) -> QuantizedLayer:
    layer = to_quantized(stock)
    layer.weight.data = draw(*layer.weight.shape) + 0.3
    grid = weight_qparams(layer.weight, bits, symmetric, "minmax")
    layer.set_weight(nearest(layer.weight, grid), grid, bits)
    low, high = torch.tensor(-1.5), torch.tensor(3.0)
    layer.input_interval = ConstantInterval(affine_qparams(low, high, activation_bits), activation_bits)
    return layer


GEOMETRIES = [
    {"padding": 1},
    {"stride": 2},
    {"padding": 2, "dilation": 2},
    {"padding": "same"},
    {"padding": 1, "groups": 4},
    {"padding": 1, "groups": 16},
    {"padding": 1, "bias": False},
]


@pytest.mark.parametrize("activation_bits", [4, 6, 8])
@pytest.mark.parametrize(("bits", "symmetric"), [(2, False), (4, False), (7, False), (8, True)])
@pytest.mark.parametrize("options", GEOMETRIES, ids=str)
def test_a_convolution_gives_simulations_bits(options, bits, symmetric, activation_bits):
    layer = quantized(nn.Conv2d(16, 16, 3, **options), bits, symmetric, activation_bits)
    x = draw(3, 16, 9, 7, seed=1) * 2
    assert unsupported("onednn", layer) is None
    out = IntegerKernel()(layer, x)
    assert torch.equal(out, simulate(layer, x))
    assert torch.equal(out, IntegerKernel()(layer, x.contiguous(memory_format=torch.channels_last)))


def test_a_packed_weight_is_not_laid_out_anew_at_every_call(capfd):
    layer, x = quantized(nn.Conv2d(32, 64, 3, padding=1)), draw(2, 32, 8, 8)
    kernel = IntegerKernel()
    kernel(layer, x)
    with torch.backends.mkldnn.verbose(torch.backends.mkldnn.VERBOSE_ON):
        kernel(layer, x)
    told = [line for line in capfd.readouterr().out.splitlines() if ",exec," in line]
    assert len([line for line in told if ",convolution," in line]) == 1
    assert not [line for line in told if ",reorder," in line]


@pytest.mark.parametrize("shape", [(5, 40), (2, 7, 40), (2, 3, 4, 40)])
@pytest.mark.parametrize("bias", [True, False])
def test_a_linear_gives_simulations_bits(shape, bias):
    layer = quantized(nn.Linear(40, 24, bias=bias))
    x = draw(*shape, seed=1) * 2
    assert torch.equal(IntegerKernel()(layer, x), simulate(layer, x))


def test_sums_are_those_of_int32_arithmetic():
    layer = quantized(nn.Linear(4000, 8, bias=False), 8, True)
    layer.weight_scale = torch.ones(8, 1)
    layer.input_interval = ConstantInterval(QParams(torch.tensor(1.0), torch.tensor(0), 0, 255), 8)
    x = torch.full((3, 4000), 255.0)
    acc = x.numpy().astype(np.int32) @ layer.weight.numpy().astype(np.int32).T
    np.testing.assert_array_equal(IntegerKernel()(layer, x).numpy(), acc.astype(np.float32))


def test_mixed_time_steps_get_their_own_interval():
    layer = quantized(nn.Conv2d(4, 4, 1))
    clock = Clock(torch.tensor([10.0, 20.0, 30.0]), 1, "t")
    table = affine_qparams(torch.tensor([-1.0, -2.0, -0.5]), torch.tensor([1.0, 3.0, 0.7]), 8)
    layer.input_interval = TableInterval(table, 8, clock)
    x, steps = draw(4, 4, 5, 5, seed=2), torch.tensor([30.0, 10.0, 20.0, 10.0])
    with clock.at(steps):
        together = IntegerKernel()(layer, x)
        assert torch.equal(together, simulate(layer, x))
    for item, step in enumerate(steps):
        with clock.at(step):
            assert torch.equal(together[item : item + 1], IntegerKernel()(layer, x[item : item + 1]))


def test_a_clock_of_equal_steps_has_one_row():
    clock = Clock(torch.tensor([10.0, 20.0]), 0, "t")
    clock.attach(module := nn.Identity())
    module(torch.tensor([20, 20, 20]))
    assert clock.row is not None
    assert clock.row.shape == ()
    assert int(clock.row) == 1
    module(torch.tensor([20, 10, 20]))
    assert clock.row.tolist() == [1, 0, 1]


@pytest.mark.parametrize(
    ("change", "why"),
    [
        (lambda layer: setattr(layer, "input_interval", None), "float input"),
        (lambda layer: setattr(layer.input_interval, "bits", 16), "16-bit input"),
        (lambda layer: setattr(layer, "weight_scale", None), "float weight"),
        (lambda layer: setattr(layer, "weight", nn.Parameter(layer.weight.short(), requires_grad=False)), "int8"),
        (lambda layer: setattr(layer, "padding_mode", "reflect"), "reflect padding"),
    ],
)
def test_what_integers_cannot_run_is_named(change, why):
    layer = quantized(nn.Conv2d(4, 4, 3, padding=1))
    change(layer)
    assert why in str(unsupported("onednn", layer))


@pytest.mark.parametrize(("value", "why"), [(127, Unsupported(Reason.SUM_RANGE)), (10, None)])
def test_sums_that_could_leave_int32_are_left_to_simulation(value, why):
    layer = quantized(nn.Linear(70_000, 1))
    layer.weight.data.fill_(value)
    assert unsupported("onednn", layer) == why


@pytest.fixture(scope="module")
def made():
    return tempoquant.quantize(unet_pipeline(), small_recipe())


def test_every_layer_runs_in_integers_and_gives_simulations_bits(made):
    module = made.denoiser.module
    report = made.use_engine("integer")
    assert len(report) > 20
    assert set(report.values()) == {"onednn int8"}
    inputs = {}
    names = {layer: name for name, layer in module.named_modules() if name in report}
    hooks = [layer.register_forward_pre_hook(lambda m, a: inputs.update({names[m]: a[0]})) for layer in names]
    with torch.no_grad():
        made.denoiser(draw(2, 1, 8, 8), 50)
    for hook in hooks:
        hook.remove()
    assert inputs.keys() == report.keys()
    for layer, name in names.items():
        assert torch.equal(layer.kernel(layer, inputs[name]), simulate(layer, inputs[name])), name


def test_simulation_can_be_chosen_and_is_told(made):
    assert set(made.use_engine("simulation").values()) == {"simulation (chosen)"}
    made.use_engine("auto")
    assert set(engine_report(made.denoiser.module).values()) == {"onednn int8"}


def test_weights_alone_are_simulated_and_told():
    report = tempoquant.quantize(unet_pipeline(), small_recipe("rtn", activations=32)).use_engine("integer")
    assert set(report.values()) == {"simulation (float input)"}


def test_an_unknown_engine_is_refused(made):
    with pytest.raises(InputError, match="unknown engine 'integr': did you mean integer"):
        made.use_engine("integr")


def test_a_copy_of_a_running_denoiser_runs(made):
    x = draw(2, 1, 8, 8)
    with torch.no_grad():
        first = made.denoiser(x, 50)
        again = copy.deepcopy(made.denoiser)(x, 50)
    assert torch.equal(first, again)


def test_images_are_as_close_to_full_precision_as_simulations(made):
    full = unet_pipeline()
    x = draw(4, 1, 8, 8)
    with torch.no_grad():
        truth = full.unet(x, 50).sample
        error = {}
        for engine in ("simulation", "integer"):
            made.use_engine(engine)
            error[engine] = float((made.denoiser(x, 50) - truth).square().sum())
    assert abs(10 * np.log10(error["integer"] / error["simulation"])) < 0.2


def test_a_processor_with_wrong_integers_simulates_with_one_warning(made, monkeypatch):
    monkeypatch.setattr("tempoquant.kernels.onednn.integers_are_exact", lambda: False)
    module = copy.deepcopy(made.denoiser.module)
    with pytest.warns(UserWarning, match="not exact") as told:
        assert set(use_engine(module, "integer").values()) == {"simulation (chosen)"}
    assert len(told) == 1


@pytest.mark.skipif(platform.machine() not in ("x86_64", "AMD64"), reason="the variable is for x86")
def test_the_check_finds_integers_that_saturate():
    code = "from tempoquant.kernels.check import integers_are_exact; print(integers_are_exact())"
    environment = os.environ | {"ONEDNN_MAX_CPU_ISA": "AVX2"}
    run = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "False"


@pytest.mark.skipif(shutil.which("cc") is None, reason="no C compiler")
@pytest.mark.parametrize("layout", ["contiguous", "channels_last", "strided", "sliced"])
def test_bytes_are_those_of_quantize_with_and_without_a_compiler(layout, monkeypatch):
    x = draw(3, 6, 8, 10) * 4
    x[0, 0, 0] = torch.arange(10) * 0.05 + 0.025
    views = {"channels_last": x.contiguous(memory_format=torch.channels_last), "strided": x[..., ::2]}
    x = (views | {"contiguous": x, "sliced": x[:, 2:4]})[layout]
    interval = ConstantInterval(QParams(torch.tensor(0.05), torch.tensor(3), 0, 63), 6).current()
    wanted = quantize(x, interval.scale, interval.zero_point, 0, 63)
    assert compiled_passes() is not None
    for passes in (compiled_passes, lambda: None):
        monkeypatch.setattr(byte_pass, "compiled_passes", passes)
        q = quantize_to_uint8(x, ScalarQParams.of(interval))
        assert q.dtype == torch.uint8
        assert torch.equal(q.float(), wanted)
        assert torch.equal(dequantize_centered(x, interval), wanted - 3)


def test_without_a_compiler_there_is_no_compiled_pass(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    for compiler in ("", "no-such-compiler", "false"):
        monkeypatch.setenv(COMPILER, compiler)
        assert compiled_passes.__wrapped__() is None
    assert not list(tmp_path.glob("**/*.so"))
