"""``tempoquant train`` as a user meets it, and latent models."""

import json

import pytest
import torch
from diffusers import DDIMScheduler, LDMPipeline, UNet2DModel, VQModel

import tempoquant
from command_line import run
from tempoquant.errors import InputError
from tempoquant.evaluation import save_images
from tempoquant.pipelines import resolve
from training_commands import SHORT, place  # noqa: F401
from training_models import images, recipe


def test_a_model_trains_and_is_used(place, monkeypatch, capfd):  # noqa: F811
    words = ("train", "model", "--method", "tdq", "-w", "4", "-a", "4", "--data", "images", *SHORT)
    code, out, _ = run(monkeypatch, capfd, *words, "-o", "out", "--json", "m.json", "--samples-every", "3")
    assert code == 0 and "tdq W4A4" in out and "out/training" in out
    assert "quantized: " in out and "kept by the recipe" in out
    assert json.loads((place / "m.json").read_text())["recipe"]["training"]["batch"] == 4
    assert {p.name for p in (place / "out" / "training").iterdir()} == {"log.jsonl", "samples-3.png"}
    assert not (place / "out.partial").exists()
    assert tempoquant.load("out").generate(1, steps=4, seed=0).shape == (1, 1, 8, 8)
    code, _, err = run(monkeypatch, capfd, *words, "-o", "out")
    assert code == 2 and "out exists" in err


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (("--data", "nowhere"), "no data at nowhere"),
        (("--data", "model"), "no images in model"),
        (("--data", "large"), "large: images of 9x9x1 (height, width, channels), the model takes 8x8x1"),
        (("--data", "colour"), "colour: images of 8x8x3 (height, width, channels), the model takes 8x8x1"),
        (("--method", "tfmq-dm"), "tfmq-dm does not train"),
        (("--method", "tdqq"), "unknown method 'tdqq': did you mean tdq"),
        (("--batch", "6", "--accumulate", "4"), "batch = 6 cannot be done in accumulate = 4 equal parts"),
        (("--loss", "l3"), "training.loss = 'l3'"),
        (("--save-every", "-1"), "save every -1 steps"),
        (("-a", "9"), "bits = 9 is not supported"),
    ],
)
def test_bad_input_is_one_line_and_leaves_nothing(place, words, line, monkeypatch, capfd):  # noqa: F811
    save_images(images(2, size=9), place / "large")
    save_images(images(2, channels=3), place / "colour")
    code, _, err = run(monkeypatch, capfd, "train", "model", *SHORT, *words, "-o", "out")
    assert code == 2 and line in err and "Traceback" not in err and len(err.strip().splitlines()) == 1
    assert not (place / "out").exists() and not (place / "out.partial").exists()


def test_help_shows_an_example(monkeypatch, capfd):
    code, out, _ = run(monkeypatch, capfd, "train", "--help")
    assert code == 0 and "tempoquant train fashion32 --method tdq" in out


def latent_pipeline():
    """A latent model of 8x8x3 behind a tiny autoencoder of 16x16 pixels."""
    torch.manual_seed(0)
    unet = UNet2DModel(
        sample_size=8,
        in_channels=3,
        out_channels=3,
        block_out_channels=(8, 16),
        layers_per_block=1,
        norm_num_groups=4,
        down_block_types=("DownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "UpBlock2D"),
    )
    vae = VQModel(
        block_out_channels=(8, 8),
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        latent_channels=3,
        num_vq_embeddings=16,
        norm_num_groups=4,
        sample_size=16,
    )
    scheduler = DDIMScheduler(num_train_timesteps=100, clip_sample=False)
    return LDMPipeline(vqvae=vae.eval(), unet=unet.eval(), scheduler=scheduler)


def test_a_latent_model_trains_through_its_autoencoder(tmp_path):
    pipe = latent_pipeline()
    target = resolve(pipe)
    assert target.pixel_shape == (3, 16, 16) and target.denoiser.sample_shape == (3, 8, 8)
    pixels = torch.rand(2, 3, 16, 16, generator=torch.Generator().manual_seed(0)) * 2 - 1
    scaling = getattr(pipe.vqvae.config, "scaling_factor", 1.0)
    with torch.no_grad():
        torch.testing.assert_close(target.encode(pixels), pipe.vqvae.encode(pixels).latents * scaling)
    made = tempoquant.train(pipe, recipe("tdq"), data=images(size=16, channels=3), out=tmp_path / "out")
    drawn = made.generate(2, steps=4, seed=1)
    assert drawn.shape == (2, 3, 16, 16)
    assert torch.equal(tempoquant.load(tmp_path / "out").generate(2, steps=4, seed=1), drawn)
    with pytest.raises(InputError, match=r"images of 8x8x3 .*, the model takes 16x16x3"):
        tempoquant.train(pipe, recipe("tdq"), data=images(channels=3))
