"""The pipeline of class labels in pixel space: guidance, labels, and the way from a folder to a picture."""

import pytest
import torch
from diffusers import DiffusionPipeline

import tempoquant
from conditional_models import labelled_denoiser, scheduler
from tempoquant.errors import InputError
from tempoquant.models.class_pipeline import ClassPipeline
from tempoquant.pipelines import resolve
from tiny import small_recipe

NONE = 4


@pytest.fixture(scope="module")
def pipe() -> ClassPipeline:
    made = ClassPipeline(unet=labelled_denoiser().module, scheduler=scheduler())
    made.set_progress_bar_config(disable=True)
    return made


def by_hand(pipe: ClassPipeline, labels: list[int], noise: torch.Tensor, scale: float, steps: int) -> torch.Tensor:
    """Deterministic DDIM (Song et al. 2021, eq. 12) on guided noise, in float64 between the network's calls."""
    alphas = pipe.scheduler.alphas_cumprod.double()
    x, gap = noise.double(), 100 // steps
    for t in range(100 - gap, -1, -gap):
        calls = [
            pipe.unet(x.float(), t, class_labels=torch.tensor(given)).sample.double()
            for given in (labels, [NONE] * len(labels))
        ]
        eps = calls[1] + scale * (calls[0] - calls[1])
        a, before = alphas[t], alphas[t - gap] if t >= gap else torch.tensor(1.0, dtype=torch.float64)
        x = before.sqrt() * (x - (1 - a).sqrt() * eps) / a.sqrt() + (1 - before).sqrt() * eps
    return x


@pytest.mark.parametrize("scale", [1.0, 2.5])
def test_guidance_is_the_formula(pipe, scale):
    noise = torch.randn(3, 1, 16, 16, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        drawn = pipe([0, 3, 1], scale, 4, latents=noise, output_type="latent").images
        wanted = by_hand(pipe, [0, 3, 1], noise, scale, 4)
    torch.testing.assert_close(drawn.double(), wanted, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("labels", [[-1], [NONE], []])
def test_labels_out_of_range_are_refused(pipe, labels):
    with pytest.raises(InputError, match="from 0 to 3"):
        pipe(labels)


def test_every_output_type_shows_the_same_pixels(pipe):
    options = {"num_inference_steps": 2, "latents": torch.randn(1, 1, 16, 16)}
    latent, pt, array, pil = (pipe([1], output_type=kind, **options).images for kind in ("latent", "pt", "np", "pil"))
    assert torch.equal(pt, (latent / 2 + 0.5).clamp(0, 1))
    assert torch.equal(torch.from_numpy(array)[..., 0], pt[:, 0])
    assert pil[0].size == (16, 16)


def test_from_a_folder_to_a_quantized_folder_and_back(pipe, tmp_path):
    pipe.save_pretrained(tmp_path / "full")
    given = {"class_labels": [0, 3], "guidance_scale": 2.0}
    quantized = tempoquant.quantize(tmp_path / "full", small_recipe(), conditioning=given)
    draw = {"steps": 2, "seed": 0, "conditioning": given}
    before = quantized.generate(2, **draw)
    quantized.save_pretrained(tmp_path / "quantized")
    loaded = tempoquant.load(tmp_path / "quantized")
    assert isinstance(loaded.pipeline, ClassPipeline)
    assert torch.equal(loaded.generate(2, **draw), before)
    full = resolve(tmp_path / "full").generate(2, **draw)
    assert 0 < float((before - full).abs().mean()) < 0.3


def test_labels_and_guidance_change_the_picture(pipe):
    options = {"num_inference_steps": 2, "latents": torch.randn(1, 1, 16, 16), "output_type": "latent"}
    drawn = [pipe([label], scale, **options).images for label, scale in ((0, 2.0), (1, 2.0), (0, 4.0))]
    assert not torch.equal(drawn[0], drawn[1])
    assert not torch.equal(drawn[0], drawn[2])


def test_it_is_a_diffusers_pipeline(pipe):
    assert isinstance(pipe, DiffusionPipeline)
    assert set(pipe.components) == {"unet", "scheduler"}
