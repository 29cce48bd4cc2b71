"""Conditional models quantize, save, load, generate and evaluate like unconditional ones."""

import json
from typing import Any

import torch
from diffusers import (
    AutoencoderKL,
    DDIMScheduler,
    DiTPipeline,
    DiTTransformer2DModel,
    StableDiffusionPipeline,
    UNet2DConditionModel,
    UNet2DModel,
)

import tempoquant
from tempoquant import Denoiser
from tempoquant.evaluation import evaluate_pair
from tempoquant.intervals import TableInterval
from tempoquant.methods import method_recipe
from tempoquant.pipelines import resolve

STEPS, SAMPLES = 3, 4


def scheduler() -> DDIMScheduler:
    return DDIMScheduler(num_train_timesteps=100, clip_sample=False)


def tiny_vae() -> AutoencoderKL:
    return AutoencoderKL(block_out_channels=(8,), norm_num_groups=4, latent_channels=4, sample_size=16).eval()


def labelled_denoiser() -> Denoiser:
    torch.manual_seed(0)
    unet = UNet2DModel(
        sample_size=16,
        in_channels=1,
        out_channels=1,
        layers_per_block=1,
        block_out_channels=(8, 8),
        norm_num_groups=4,
        down_block_types=("DownBlock2D", "AttnDownBlock2D"),
        up_block_types=("AttnUpBlock2D", "UpBlock2D"),
        num_class_embeds=5,
    )
    return Denoiser(unet.eval(), scheduler(), (1, 16, 16), name="labelled")


def dit_pipeline() -> DiTPipeline:
    torch.manual_seed(0)
    transformer = DiTTransformer2DModel(
        num_attention_heads=2,
        attention_head_dim=4,
        in_channels=4,
        out_channels=8,
        num_layers=2,
        sample_size=16,
        patch_size=8,
        num_embeds_ada_norm=1000,
        norm_num_groups=4,
    )
    return DiTPipeline(transformer=transformer.eval(), vae=tiny_vae(), scheduler=scheduler())


def text_pipeline(folder) -> StableDiffusionPipeline:
    from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

    torch.manual_seed(0)
    letters = [*"abcdefgh", *(f"{c}</w>" for c in "abcdefgh"), "<|startoftext|>", "<|endoftext|>"]
    (folder / "vocab.json").write_text(json.dumps({token: i for i, token in enumerate(letters)}))
    (folder / "merges.txt").write_text("#version: 0.2\n")
    tokenizer = CLIPTokenizer(str(folder / "vocab.json"), str(folder / "merges.txt"), model_max_length=8)
    config = CLIPTextConfig(
        vocab_size=len(letters),
        hidden_size=8,
        intermediate_size=8,
        num_hidden_layers=1,
        num_attention_heads=2,
        max_position_embeddings=8,
        bos_token_id=16,
        eos_token_id=17,
    )
    unet = UNet2DConditionModel(
        sample_size=16,
        in_channels=4,
        out_channels=4,
        layers_per_block=1,
        block_out_channels=(8, 8),
        norm_num_groups=4,
        cross_attention_dim=8,
        attention_head_dim=2,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
    )
    return StableDiffusionPipeline(
        vae=tiny_vae(),
        text_encoder=CLIPTextModel(config).eval(),
        tokenizer=tokenizer,
        unet=unet.eval(),
        scheduler=scheduler(),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )


def recipe(**changes: Any) -> tempoquant.Recipe:
    calibration = {"samples": SAMPLES, "steps": STEPS, "rows": 6, "rows_per_step": 3}
    return method_recipe("tfmq-dm", calibration=calibration, **changes)


def check_whole_way(model, conditioning, folder, denoiser=None):
    """Quantize, save, load, draw and compare; the result before saving."""
    made = tempoquant.quantize(model, recipe(), out=folder / "out", conditioning=conditioning)
    run = {"steps": STEPS, "seed": 7, "conditioning": conditioning}
    images = made.generate(SAMPLES, **run)
    loaded = tempoquant.load(folder / "out", denoiser=denoiser)
    assert torch.isfinite(images).all() and torch.equal(images, loaded.generate(SAMPLES, **run))
    full = resolve(model)
    found = evaluate_pair(
        full, loaded.target, projections=made.blueprint.projections, samples=SAMPLES, noise_samples=2, **run
    )
    numbers = [found["psnr"]["mean"], found["ssim"]["mean"], found["sqnr"]["db"], found["cosine"]["mean"]]
    assert torch.isfinite(torch.tensor(numbers)).all() and found["cosine"]["min"] > 0.9
    return made


def tables(made) -> dict[str, TableInterval]:
    """Every layer whose input has an interval a time step."""
    layers = made.denoiser.module.named_modules()
    found = {name: getattr(layer, "input_interval", None) for name, layer in layers}
    return {name: interval for name, interval in found.items() if isinstance(interval, TableInterval)}


def test_class_labels_of_a_bare_denoiser(tmp_path):
    conditioning = {"class_labels": torch.tensor([0, 1, 2, 4])}
    made = check_whole_way(labelled_denoiser(), conditioning, tmp_path, denoiser=labelled_denoiser())
    # The class is added behind the time embedding's second layer, so only the two before it see time alone.
    assert made.facts["layers"] == {"image": 40, "temporal": 2, "temporal+condition": 8, "condition": 0, "constant": 0}
    projections = {name for name, _ in made.denoiser.module.named_modules() if name.endswith("time_emb_proj")}
    assert tables(made).keys() == {*projections, "time_embedding.linear_1", "time_embedding.linear_2"}
    assert {len(table.scale) for table in tables(made).values()} == {STEPS}


def test_class_labels_of_a_transformer(tmp_path):
    made = check_whole_way(dit_pipeline(), {"class_labels": [1, 2, 3, 999]}, tmp_path)
    assert made.facts["layers"] == {"image": 14, "temporal": 4, "temporal+condition": 3, "condition": 0, "constant": 0}
    blocks = [f"transformer_blocks.{i}.norm1" for i in range(2)]
    parts = ("linear", "emb.timestep_embedder.linear_1", "emb.timestep_embedder.linear_2")
    assert tables(made).keys() == {"proj_out_1", *(f"{block}.{part}" for block in blocks for part in parts)}
    assert made.facts["conditioning"] == {"class_labels": "list"}


def test_prompts(tmp_path):
    conditioning = {"prompt": ["a b", "c", "d e f", "h"], "guidance_scale": 3.0}
    made = check_whole_way(text_pipeline(tmp_path), conditioning, tmp_path)
    assert made.facts["layers"] == {"image": 64, "temporal": 10, "temporal+condition": 0, "condition": 8, "constant": 0}
    keys = [m for name, m in made.denoiser.module.named_modules() if name.endswith(("attn2.to_k", "attn2.to_v"))]
    assert len(keys) == 8 and all(key.weight_scale is not None and key.input_interval is not None for key in keys)
    assert made.facts["conditioning"] == {"prompt": "list", "guidance_scale": 3.0}
    stored = json.loads((tmp_path / "out" / "tempoquant.json").read_text())
    assert "d e f" not in json.dumps(stored)
