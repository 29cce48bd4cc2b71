"""LDM-4 of ImageNet: the class is attended to, guidance is its formula, and quantized folders come back."""

import pytest
import torch

import twins
from tempoquant import load, quantize
from tempoquant.errors import InputError
from tempoquant.models.class_latent import ClassLatentPipeline
from tempoquant.models.heads_unet import HeadsUNet2DModel
from tempoquant.pipelines import DiffusersModel, resolve
from tiny import small_recipe


@pytest.fixture
def pipe(tmp_path) -> ClassLatentPipeline:
    made = twins.imagenet(tmp_path)
    made.set_progress_bar_config(disable=True)
    return made


@pytest.mark.parametrize("scale", [1.0, 3.0])
def test_guidance_is_the_formula(pipe, scale):
    x = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    found = pipe([5, 998], guidance_scale=scale, num_inference_steps=3, latents=x, output_type="latent").images
    pipe.scheduler.set_timesteps(3)
    contexts = [
        pipe.class_embedder.embedding.weight[torch.tensor(labels)][:, None] for labels in ([5, 998], [1000] * 2)
    ]
    with torch.no_grad():
        for t in pipe.scheduler.timesteps:
            within, without = (pipe.unet(x, t, encoder_hidden_states=context).sample for context in contexts)
            x = pipe.scheduler.step(without + scale * (within - without), t, x).prev_sample
    torch.testing.assert_close(found, x, rtol=1e-4, atol=1e-5)


def test_latents_are_decoded_by_the_codebook(pipe):
    x = torch.randn(1, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    options = {"num_inference_steps": 2, "latents": x}
    latents = pipe([5], output_type="latent", **options).images
    with torch.no_grad():
        pixels = pipe.vqvae.decode(latents).sample
    torch.testing.assert_close(pipe([5], output_type="pt", **options).images, (pixels / 2 + 0.5).clamp(0, 1))


def test_labels_are_checked_before_any_work(pipe):
    target = DiffusersModel(pipe)
    target.check_conditioning({"class_labels": [999]}, 1)
    with pytest.raises(InputError, match="class label 1000 is out of range: 0 to 999"):
        target.check_conditioning({"class_labels": [1000]}, 1)


def test_from_a_folder_to_a_quantized_folder_and_back(pipe, tmp_path):
    pipe.save_pretrained(tmp_path / "full")
    given = {"class_labels": [1, 2], "guidance_scale": 3.0}
    target = resolve(tmp_path / "full")
    made = quantize(target, small_recipe("rtn"), out=tmp_path / "out", conditioning=given)
    loaded = load(tmp_path / "out")
    assert type(loaded.pipeline) is ClassLatentPipeline
    run = {"steps": 2, "seed": 3, "conditioning": given}
    assert torch.equal(made.generate(2, **run), loaded.generate(2, **run))


def test_heads_of_one_number_survive_a_folder(tmp_path):
    """As many heads at every width: a wrong number would load without an error, for no weight has another shape."""
    pipe = twins.ldm8(tmp_path)
    pipe.save_pretrained(tmp_path / "full")
    unet = resolve(tmp_path / "full").pipe.unet
    for network in (pipe.unet, unet):
        attentions = [part for part in network.modules() if hasattr(part, "heads")]
        assert {part.heads for part in attentions} == {4} and len({part.inner_dim for part in attentions}) == 3
        assert all(part.scale == (part.inner_dim / 4) ** -0.5 for part in attentions)
    made = quantize(pipe, small_recipe("rtn"), out=tmp_path / "out")
    loaded = load(tmp_path / "out")
    assert isinstance(loaded.denoiser.module, HeadsUNet2DModel)
    assert torch.equal(made.generate(1, steps=2, seed=0), loaded.generate(1, steps=2, seed=0))
