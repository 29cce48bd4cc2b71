"""Tuning of the whole denoiser: what learns, what does not, and when nothing is kept."""

import torch

import tempoquant
from tempoquant.layers import QuantizedLayer
from tempoquant.pipelines import resolve
from tempoquant.reconstruction.tuning import tunable_tensors
from tempoquant.recording.store import Store
from tiny import small_recipe, unet_pipeline


def quantized(tmp_path, **tuning):
    recipe = small_recipe("tempo-fast", weights=3, tuning=tuning or None, calibration={"samples": 48})
    shared = {"recording": tmp_path / "recording", "units": tmp_path / "units"}
    return tempoquant.quantize(unet_pipeline(), recipe, **shared)


def held_out_error(made, folder):
    """Mean squared error of the predicted noise on the last recorded trajectory, which tuning never learns from."""
    store, full = Store(folder / "recording"), resolve(unet_pipeline()).denoiser
    sample, timestep, _ = store.read(torch.arange(store.steps), torch.full((store.steps,), store.samples - 1))
    with torch.no_grad():
        return float((made.denoiser(sample, timestep) - full(sample, timestep)).square().mean())


def test_the_predicted_noise_comes_nearer_and_integers_stay(tmp_path):
    plain, tuned = quantized(tmp_path), quantized(tmp_path, iterations=60, batch=8, lr=3e-3)
    assert held_out_error(tuned, tmp_path) < 0.95 * held_out_error(plain, tmp_path)
    before, after = plain.denoiser.module.state_dict(), tuned.denoiser.module.state_dict()
    moved = {name for name in before if not torch.equal(before[name], after[name])}
    assert moved == set(tunable_tensors(plain.denoiser.module))
    assert not any(p.requires_grad for p in tuned.denoiser.module.parameters())
    layers = [m for m in tuned.denoiser.module.modules() if isinstance(m, QuantizedLayer)]
    assert layers and not any(m.weight_scale.requires_grad for m in layers if m.weight_scale is not None)


def test_tuning_that_does_harm_is_not_kept(tmp_path):
    plain, tuned = quantized(tmp_path), quantized(tmp_path, iterations=3, batch=2, lr=1.0)
    before, after = plain.denoiser.module.state_dict(), tuned.denoiser.module.state_dict()
    assert all(torch.equal(before[name], after[name]) for name in before)
