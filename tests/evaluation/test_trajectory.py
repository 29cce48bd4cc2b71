import copy
import json
import math

import numpy as np
import pytest
import torch
from diffusers import AutoencoderKL, DDIMScheduler, DiTPipeline, DiTTransformer2DModel
from torch import Tensor, nn

from tempoquant.errors import InputError, NumericsError
from tempoquant.evaluation import compare, evaluate_pair, psnr, reference, ssim
from tempoquant.pipelines import BareModel, DiffusersModel
from tempoquant.sampling.denoiser import Denoiser
from tempoquant.sampling.sampling import sample


class Net(nn.Module):
    """eps = 0.5 x + emb(t)[0], with emb a linear layer of (t / 100, 1)."""

    def __init__(self) -> None:
        super().__init__()
        self.emb = nn.Linear(2, 3)
        self.unused = nn.Linear(1, 1)
        with torch.no_grad():
            self.emb.weight.copy_(torch.tensor([[1.0, 0.0], [0.0, 1.0], [1.0, 1.0]]))
            self.emb.bias.zero_()

    def forward(self, sample: Tensor, timestep: Tensor) -> Tensor:
        emb = self.emb(torch.stack([timestep / 100, torch.ones_like(timestep)], dim=1).float())
        return 0.5 * sample + emb[:, :1, None, None] / 10


@pytest.fixture
def full() -> Denoiser:
    return Denoiser(Net(), DDIMScheduler(num_train_timesteps=100, clip_sample=False), (1, 12, 12), name="net")


def with_shift(full: Denoiser, shift: float) -> Denoiser:
    other = copy.deepcopy(full)
    with torch.no_grad():
        other.module.emb.bias[0] = shift
    return other


RUN = {"projections": ["emb"], "samples": 3, "steps": 4, "seed": 1, "noise_samples": 2, "batch_size": 2}


def test_metrics_by_independent_computation(full):
    other = with_shift(full, 0.3)
    with pytest.warns(UserWarning, match="samples of net reach from"):
        metrics = compare(reference(full, sampler="plms", **RUN), other)
    a, b = (sample(d, samples=3, steps=4, seed=1, sampler="plms").double().numpy() for d in (full, other))
    mse = ((a - b) ** 2).reshape(3, -1).mean(1)
    # These samples reach to about 3: the peak is their own range.
    np.testing.assert_allclose(metrics.psnr, 10 * np.log10((a.max() - a.min()) ** 2 / mse), rtol=1e-9)
    norms = np.linalg.norm(a.reshape(3, -1), axis=1)
    np.testing.assert_allclose(metrics.relative_error, np.linalg.norm((a - b).reshape(3, -1), axis=1) / norms)
    assert metrics.timesteps == [75, 50, 50, 25, 0]
    # The prediction differs by 0.03 everywhere, at inputs of the full-precision trajectory of samples 0 and 1.
    seen = []
    sample(full, samples=2, steps=4, seed=1, sampler="plms", step_callback=lambda k, t, i, x, p: seen.append(p.clone()))
    power = [float(p.double().square().mean()) for p in seen]
    np.testing.assert_allclose(metrics.sqnr_steps, [10 * math.log10(p / 0.03**2) for p in power], atol=1e-4)
    assert metrics.sqnr == pytest.approx(10 * math.log10(sum(power) / len(power) / 0.03**2), abs=1e-4)
    # emb(t) is (s, 1, s + 1) with s = t / 100; the other has (s + 0.3, 1, s + 1).
    for t, value in zip(metrics.timesteps, metrics.cosine["emb"], strict=True):
        u, v = np.array([t / 100, 1, t / 100 + 1]), np.array([t / 100 + 0.3, 1, t / 100 + 1])
        assert value == pytest.approx(u @ v / np.linalg.norm(u) / np.linalg.norm(v), abs=1e-6)
    # Unique rows s = 0, 0.25, 0.5, 0.75: (0.3 - d)^2 + d^2 is least at a move d of 0.15, nearer to 0.25 than to 0, so
    # every row but the last becomes the next one.
    assert metrics.temporal_mismatch == 0.75


def test_temporal_mismatch_counts_unique_rows(full):
    other = copy.deepcopy(full)
    with torch.no_grad():
        # s becomes 0 for all, so every row but t = 0 turns into that of t = 0.
        other.module.emb.weight[:, 0] = 0
    metrics = compare(reference(full, sampler="plms", **RUN), other)
    assert metrics.temporal_mismatch == 0.75


def test_equal_denoisers_and_json(full):
    data = evaluate_pair(full, copy.deepcopy(full), **RUN)
    assert json.loads(json.dumps(data, allow_nan=False)) == data
    assert data["psnr"]["mean"] is None and data["sqnr"]["db"] is None
    assert data["ssim"]["mean"] == pytest.approx(1.0) and len(data["ssim"]["per_image"]) == 3
    assert data["cosine"]["min"] == pytest.approx(1.0) and data["temporal_mismatch"] == 0.0


def test_one_reference_serves_many(full):
    base = reference(full, **RUN)
    near, far = (compare(base, with_shift(full, shift), projections=[]) for shift in (0.01, 0.1))
    assert near.sqnr == pytest.approx(far.sqnr + 20, abs=0.01)
    assert near.cosine == {} and near.temporal_mismatch is None and near.cosine_mean is None
    assert np.mean(near.psnr) > np.mean(far.psnr) and np.mean(near.ssim) > np.mean(far.ssim)
    assert not full.module.emb._forward_hooks


def test_conditional_pipelines_are_compared_branch_by_branch():
    torch.manual_seed(0)
    transformer = DiTTransformer2DModel(
        num_attention_heads=2, attention_head_dim=4, in_channels=4, out_channels=8, num_layers=1, sample_size=16
    )
    vae = AutoencoderKL(block_out_channels=(8,), norm_num_groups=4, latent_channels=4, sample_size=16)
    pipe = DiTPipeline(transformer.eval(), vae.eval(), DDIMScheduler(num_train_timesteps=100))
    target, projection = DiffusersModel(pipe), "transformer_blocks.0.norm1.linear"
    given = {"class_labels": [1, 2, 3], "guidance_scale": 2.0}
    run = {**RUN, "projections": [projection], "steps": 2}
    base = reference(target, conditioning=given, **run)
    assert base.calls[0].conditioning["class_labels"].tolist() == [1, 2, 1000, 1000]
    other = copy.deepcopy(transformer)
    with torch.no_grad():
        other.get_submodule(projection).weight.mul_(1.1)
    metrics = compare(base, target.with_module(other))
    assert len(metrics.psnr) == 3 and metrics.timesteps == [50, 0]
    assert 0.9 < metrics.cosine_min <= metrics.cosine_mean <= 1 and math.isfinite(metrics.sqnr)


class Scaled(nn.Module):
    """eps = scale x, so that samples are multiples of the initial noise."""

    def __init__(self, scale: float):
        super().__init__()
        self.scale, self.emb = scale, nn.Linear(1, 1)

    def forward(self, sample: Tensor, timestep: Tensor) -> Tensor:
        return sample * self.scale + 0 * self.emb(timestep[:1].float()[:, None]).sum()


def scaled(scale: float, shape: tuple[int, ...] = (1, 12, 12), **options: bool) -> Denoiser:
    torch.manual_seed(0)
    scheduler = DDIMScheduler(num_train_timesteps=100, **{"clip_sample": False, **options})
    return Denoiser(Scaled(scale), scheduler, shape, name="scaled")


def test_a_reference_within_its_range_is_measured_in_the_range_of_images(recwarn):
    base = reference(scaled(0.5, clip_sample=True), **RUN)
    metrics = compare(base, scaled(0.6, clip_sample=True))
    a, b = base.images.double(), metrics.images.double()
    assert not recwarn and metrics.data_range == metrics.to_dict()["data_range"] == 2.0 and float(a.abs().max()) <= 1
    mse = (a - b).square().flatten(1).mean(1)
    assert metrics.psnr == (10 * torch.log10(4 / mse)).tolist()


def test_a_reference_that_leaves_its_range_is_measured_in_its_own():
    base, other = scaled(0.0), scaled(0.05)
    with pytest.warns(UserWarning, match="PSNR and SSIM take their own data range") as said:
        truth = reference(base, **RUN)
    assert len(said) == 1 and "clip_sample" in str(said[0].message) and "\n" not in str(said[0].message)
    metrics = compare(truth, other)
    a, b = truth.images.double(), metrics.images.double()
    own = float(a.max() - a.min())
    assert own > 4 and metrics.data_range == metrics.to_dict()["data_range"] == own
    # Scale is of no account: tenfold images with tenfold errors are as alike as these.
    alike = ssim(10 * a, 10 * b, 10 * own)
    np.testing.assert_allclose(metrics.ssim, alike, rtol=1e-9)
    np.testing.assert_allclose(metrics.psnr, psnr(10 * a, 10 * b, 10 * own), rtol=1e-9)


@pytest.mark.parametrize("shape", [(3, 16), (1, 4, 6, 5), (4, 12, 12), (2, 12, 12)])
def test_samples_that_are_no_images_have_neither_psnr_nor_ssim(shape, recwarn):
    base = reference(scaled(0.1, shape), **RUN)
    metrics = compare(base, scaled(0.15, shape))
    data = metrics.to_dict()
    assert not recwarn and data["psnr"] is data["ssim"] is data["data_range"] is None
    assert json.loads(json.dumps(data, allow_nan=False)) == data and math.isfinite(data["sqnr"]["db"])
    a, b = base.images.flatten(1).double().numpy(), metrics.images.flatten(1).double().numpy()
    wanted = np.linalg.norm(a - b, axis=1) / np.linalg.norm(a, axis=1)
    np.testing.assert_allclose(data["relative_error"]["per_image"], wanted, rtol=1e-9)
    assert 0 < data["relative_error"]["mean"] < 1


def test_images_too_small_for_its_window_have_no_ssim():
    shape = (1, 10, 12)
    metrics = compare(reference(scaled(0.5, shape, clip_sample=True), **RUN), scaled(0.6, shape, clip_sample=True))
    assert metrics.ssim is None and len(metrics.psnr) == 3


def test_samples_that_are_not_finite_are_no_metric(full, monkeypatch):
    base, decode = reference(full, **RUN), BareModel.decode
    # As of an autoencoder whose half precision overflows.
    monkeypatch.setattr(BareModel, "decode", lambda self, x: decode(self, x) + math.inf)
    for run in (lambda: reference(full, **RUN), lambda: compare(base, full)):
        with pytest.raises(NumericsError, match="samples of net are not finite"):
            run()


def test_bad_input_is_named(full):
    with pytest.raises(InputError, match=r"no module 'emv' in net; nearest: emb"):
        reference(full, **{**RUN, "projections": ["emv"]})
    with pytest.raises(InputError, match="'unused' was not called"):
        reference(full, **{**RUN, "projections": ["unused"]})
    with pytest.raises(InputError, match="noise samples 4 is out of range: 1 to 3"):
        reference(full, **{**RUN, "noise_samples": 4})
    base = reference(full, **RUN)
    with pytest.raises(InputError, match="the reference has no projection 'unused'"):
        compare(base, full, projections=["unused"])
    with pytest.raises(NumericsError, match="not finite at step 0"):
        compare(base, with_shift(full, math.nan))
