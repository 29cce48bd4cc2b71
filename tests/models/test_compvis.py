"""Checkpoints of the papers' code bases become the diffusers pipelines that they were made from, bit for bit."""

import pickle
import sys
import types
from pathlib import Path
from typing import Any

import compvis_files as files
import pytest
import torch
import yaml
from safetensors.torch import save_file
from torch import Tensor

import twins
from tempoquant.errors import FormatError, InputError
from tempoquant.models.compvis.assemble import KNOWN
from tempoquant.models.compvis.files import read_tensors
from tempoquant.models.compvis.unets import attends, ldm_network
from tempoquant.pipelines import DiffusersModel, resolve

WIDTH = 32


def config(pipe: Any, vae: Any, end: float, start: float = 0.0015, **unet: Any) -> dict[str, Any]:
    """The code base's own description of a twin."""
    of, first = pipe.unet.config, vae.config
    mults = [channels // WIDTH for channels in of["block_out_channels"]]
    own = {"in_channels": of["in_channels"], "out_channels": of["out_channels"], "model_channels": WIDTH}
    own |= {"num_res_blocks": 2, "channel_mult": mults, **unet}
    encoder = {
        "z_channels": first["latent_channels"],
        "resolution": first["sample_size"],
        "in_channels": 3,
        "out_ch": 3,
    }
    encoder |= {"ch": WIDTH, "ch_mult": [c // WIDTH for c in first["block_out_channels"]], "num_res_blocks": 2}
    params = {"linear_start": start, "linear_end": end, "image_size": of["sample_size"]}
    params |= {"unet_config": {"params": own}, "first_stage_config": {"params": {"ddconfig": encoder}}}
    return {"model": {"params": params}}


def ldm4(folder: Path) -> tuple[Any, dict[str, Tensor], dict[str, Any]]:
    pipe = twins.ldm4(folder, WIDTH)
    tensors = files.ldm_unet(pipe.unet, files.LDM4, lambda width: width // 32) | files.first_stage(pipe.vqvae)
    return pipe, tensors, config(pipe, pipe.vqvae, 0.0195, attention_resolutions=[8, 4, 2], num_head_channels=32)


def ldm8(folder: Path) -> tuple[Any, dict[str, Tensor], dict[str, Any]]:
    pipe = twins.ldm8(folder, WIDTH)
    tensors = files.ldm_unet(pipe.unet, files.LDM8, lambda width: 4) | files.first_stage(pipe.vqvae)
    tensors["scale_factor"] = torch.tensor(twins.LATENT_SCALE, dtype=torch.float64)
    own = {"num_heads": 4, "use_scale_shift_norm": True, "resblock_updown": True}
    return pipe, tensors, config(pipe, pipe.vqvae, 0.0155, attention_resolutions=[1, 2, 4, 8], **own)


def imagenet(folder: Path) -> tuple[Any, dict[str, Tensor], dict[str, Any]]:
    pipe = twins.imagenet(folder, WIDTH)
    tensors = files.ldm_unet(pipe.unet, files.LDM4) | files.first_stage(pipe.vqvae)
    tensors["cond_stage_model.embedding.weight"] = pipe.class_embedder.embedding.weight.detach()
    own = {"num_heads": 1, "transformer_depth": 1, "context_dim": 16, "use_spatial_transformer": True}
    return pipe, tensors, config(pipe, pipe.vqvae, 0.0195, attention_resolutions=[8, 4, 2], **own)


def stable_diffusion(folder: Path) -> tuple[Any, dict[str, Tensor], dict[str, Any]]:
    pytest.importorskip("transformers")
    pipe = twins.stable_diffusion(folder / "made", WIDTH)
    pipe.tokenizer.save_pretrained(folder / "tokenizer")
    tensors = files.ldm_unet(pipe.unet, files.SD1) | files.first_stage(pipe.vae)
    text = {n.removeprefix("text_model."): value for n, value in pipe.text_encoder.state_dict().items()}
    tensors |= {f"cond_stage_model.transformer.text_model.{name}": value for name, value in text.items()}
    own = {"num_heads": 4, "transformer_depth": 1, "context_dim": 2 * WIDTH}
    made = config(pipe, pipe.vae, 0.012, 0.00085, attention_resolutions=[4, 2, 1], **own)
    made["model"]["params"]["scale_factor"] = 0.18215
    return pipe, tensors, made


GIVEN: dict[Any, dict[str, Any] | None] = {
    ldm4: None,
    ldm8: None,
    imagenet: {"class_labels": [999], "guidance_scale": 3.0},
    stable_diffusion: {"prompt": ["a b"], "guidance_scale": 7.5},
}


@pytest.mark.parametrize(("twin", "conditioning"), GIVEN.items(), ids=lambda value: getattr(value, "__name__", ""))
def test_latent_diffusion_draws_the_same(tmp_path, twin, conditioning):
    pipe, tensors, described = twin(tmp_path)
    (tmp_path / "model.yaml").write_text(yaml.safe_dump(described))
    torch.save({"state_dict": tensors, "global_step": 3}, tmp_path / "model.ckpt")
    target = resolve(tmp_path / "model.ckpt")
    assert target.name == "model" and type(target.pipe) is type(pipe) and type(target.pipe.unet) is type(pipe.unet)
    run = {"steps": 2, "seed": 0, "sampler": "ddim", "conditioning": conditioning}
    assert torch.equal(target.generate(1, **run), DiffusersModel(pipe).generate(1, **run))


def test_the_ddpm_of_cifar10_draws_the_same(tmp_path):
    pipe = twins.cifar(tmp_path, WIDTH)
    torch.save(files.cifar(pipe.unet), tmp_path / "model.ckpt")
    (tmp_path / "config.yaml").write_text("data: {image_size: 16}")
    run = {"steps": 3, "seed": 0, "sampler": "ddim-quadratic"}
    found = resolve(tmp_path / "model.ckpt").generate(2, **run)
    assert torch.equal(found, DiffusersModel(pipe).generate(2, **run))


def test_averages_are_what_counts(tmp_path):
    last = {"model.diffusion_model.out.2.weight": torch.zeros(2), "first_stage_model.a.weight": torch.ones(2)}
    ema = {"model_ema.diffusion_modelout2weight": torch.full((2,), 7.0), "model_ema.decay": torch.ones(1)}
    save_file(last | ema, tmp_path / "model.safetensors")
    found = read_tensors(tmp_path / "model.safetensors")
    assert {name: float(value[0]) for name, value in found.items()} == {
        "model.diffusion_model.out.2.weight": 7.0,
        "first_stage_model.a.weight": 1.0,
    }


def test_the_published_architectures_have_their_published_sizes():
    """LDM-4 274 M, LDM-8 of Churches 294 M (Rombach et al. 2022, table 12); ImageNet 400 M; Stable Diffusion 859 M."""
    entries = [entry["params"] for entry in yaml.safe_load(KNOWN.read_text())]
    with torch.device("meta"):
        networks = [ldm_network(params) for params in entries]
    millions = [sum(p.numel() for p in network.parameters()) / 1e6 for network in networks]
    assert [int(count) for count in millions] == [274, 294, 400, 859]
    assert [attends(params) for params in entries] == [False, False, True, True]


class Code:
    """Something that a pickle would have to run."""

    def __reduce__(self) -> tuple:
        return (print, ("run",))


def test_what_cannot_be_read_is_told_in_one_line(tmp_path, capsys):
    torch.save({"state_dict": {"a": torch.ones(1)}, "callbacks": Code()}, tmp_path / "code.ckpt")
    (tmp_path / "damaged.ckpt").write_bytes(b"PK\x03\x04 nothing")
    (tmp_path / "pickle.ckpt").write_bytes(pickle.dumps({"a": 1}))
    torch.save([1, 2], tmp_path / "list.ckpt")
    save_file({"a": torch.ones(1)}, tmp_path / "other.safetensors")
    save_file({"model.diffusion_model.input_blocks.0.0.weight": torch.ones(5, 3, 3, 3)}, tmp_path / "odd.safetensors")
    for name, said in (
        ("code.ckpt", "holds more than tensors"),
        ("damaged.ckpt", "cannot be read"),
        ("list.ckpt", "holds no tensors by name"),
        ("other.safetensors", "is no checkpoint of latent diffusion"),
        ("odd.safetensors", "put its config.yaml beside it"),
        ("none.ckpt", "no such file"),
    ):
        with pytest.raises((FormatError, InputError)) as caught:
            resolve(tmp_path / name)
        assert said in str(caught.value) and "\n" not in str(caught.value), name
    assert capsys.readouterr().out == ""


def test_a_training_callback_is_passed_over(tmp_path, monkeypatch):
    """Checkpoints of the latent diffusion code name a class of their training library as a key."""
    name = "pytorch_lightning.callbacks.model_checkpoint"
    kind = type("ModelCheckpoint", (), {"__module__": name})
    with monkeypatch.context() as patch:
        for part in ("pytorch_lightning", "pytorch_lightning.callbacks", name):
            patch.setitem(sys.modules, part, types.ModuleType(part))
        sys.modules[name].ModelCheckpoint = kind
        torch.save({"state_dict": {"a": torch.ones(1)}, "callbacks": {kind: {"best": 1.0}}}, tmp_path / "model.ckpt")
    assert set(read_tensors(tmp_path / "model.ckpt")) == {"a"}


def test_weights_that_do_not_fit_are_named(tmp_path):
    _, tensors, described = ldm4(tmp_path)
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(described))
    missing = {name: value for name, value in tensors.items() if "middle_block.1.qkv" not in name}
    torch.save(missing, tmp_path / "missing.ckpt")
    with pytest.raises(FormatError, match=r"UNet2DModel.mid_block.attentions.0.to_k.bias is missing"):
        resolve(tmp_path / "missing.ckpt")
    described["model"]["params"].pop("image_size")
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(described))
    with pytest.raises(FormatError, match="lacks 'image_size'"):
        resolve(tmp_path / "missing.ckpt")
