"""Every layer of both real models, fed its own input: integer execution gives simulation's bits."""

import importlib.util
import os
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from tempoquant.graph.probing import quantizable_layers
from tempoquant.intervals import ConstantInterval
from tempoquant.kernels.check import integers_are_exact
from tempoquant.kernels.engine import use_engine
from tempoquant.layers import install_layers, simulate
from tempoquant.numerics import affine_qparams
from tempoquant.numerics.weights import nearest, weight_qparams
from tempoquant.pipelines import resolve

if not integers_are_exact():
    pytest.skip("this processor's int8 operators are not exact", allow_module_level=True)

VARIABLE = "TEMPOQUANT_ANIME64"


def fashion32() -> tuple[nn.Module, tuple[int, ...]]:
    denoiser = resolve("fashion32").denoiser
    return denoiser.module, denoiser.sample_shape


def anime64() -> tuple[nn.Module, tuple[int, ...]]:
    if VARIABLE not in os.environ:
        pytest.skip(f"{VARIABLE} names no folder with anime64.py")
    spec = importlib.util.spec_from_file_location("anime64", Path(os.environ[VARIABLE]) / "anime64.py")
    assert spec is not None and spec.loader is not None
    module: Any = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.load_unet(), (3, 64, 64)


@pytest.mark.parametrize("model", [fashion32, anime64])
def test_every_layer_gives_simulations_bits(model):
    module, shape = model()
    layers = install_layers(module.eval(), quantizable_layers(module))
    inputs: dict[str, torch.Tensor] = {}
    hooks = [la.register_forward_pre_hook(lambda m, a, n=n: inputs.update({n: a[0]})) for n, la in layers.items()]
    x = torch.randn(2, *shape, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        module(x, torch.tensor([40, 40]))
        for hook in hooks:
            hook.remove()
        assert inputs.keys() == layers.keys()
        for name, layer in layers.items():
            grid = weight_qparams(layer.weight, 4, False, "minmax")
            layer.set_weight(nearest(layer.weight, grid), grid, 4)
            layer.input_interval = ConstantInterval(affine_qparams(inputs[name].min(), inputs[name].max(), 8), 8)
        assert set(use_engine(module, "integer").values()) == {"onednn int8"}
        for name, layer in layers.items():
            assert torch.equal(layer(inputs[name]), simulate(layer, inputs[name])), name
