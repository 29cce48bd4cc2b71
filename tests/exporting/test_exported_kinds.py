"""Layers of every kind, with one weight scale a channel and by group, in other runtimes."""

import pytest
import torch

import tempoquant
from signal_models import grouped, signals
from tiny import small_recipe


@pytest.mark.usefixtures("brief")
@pytest.mark.parametrize("target", ["onnx", "openvino"])
@pytest.mark.parametrize(("method", "group_size"), [("rtn", None), ("tempo", None), ("rtn", 16)])
def test_an_exported_denoiser_draws_the_same(tmp_path, target, method, group_size):
    pytest.importorskip(target)
    made = tempoquant.quantize(signals(), grouped(small_recipe(method), group_size))
    exported = tempoquant.load_exported(tempoquant.export(made, tmp_path / "out", target))
    images, expected = (model.generate(2, seed=1, steps=4) for model in (exported, made))
    # A last bit may turn a rounding over.
    assert (images - expected).abs().max() < 2e-3 * expected.abs().max()
    assert not torch.equal(expected, torch.zeros_like(expected))
