"""What stands around a denoiser, as optimum-intel reads it: text encoders and the autoencoder in OpenVINO, float."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from tempoquant.errors import InputError
from tempoquant.runtime.exporting import tracing
from tempoquant.runtime.extras import needed
from tempoquant.runtime.openvino import MODEL

TEXT_ENCODERS = ("text_encoder", "text_encoder_2")


class TextEncoder(nn.Module):
    """A CLIP text encoder: token numbers (B, L) to its own output, and the hidden states of all layers."""

    def __init__(self, encoder: Any):
        super().__init__()
        self.encoder, self.layers = encoder, int(encoder.config.num_hidden_layers)

    @property
    def names(self) -> list[str]:
        """What the outputs are called, in order."""
        first = ["text_embeds", "last_hidden_state"] if self._projects else ["last_hidden_state", "pooler_output"]
        return [*first, *(f"hidden_states.{i}" for i in range(self.layers + 1))]

    @property
    def _projects(self) -> bool:
        return hasattr(self.encoder, "text_projection")

    def forward(self, input_ids: Tensor) -> tuple[Tensor, ...]:
        out = self.encoder(input_ids, output_hidden_states=True, return_dict=True)
        first = (
            (out.text_embeds, out.last_hidden_state) if self._projects else (out.last_hidden_state, out.pooler_output)
        )
        return (*first, *out.hidden_states)


class Decoder(nn.Module):
    """Latents to pixels."""

    names = ("sample",)

    def __init__(self, vae: Any):
        super().__init__()
        self.vae = vae

    def forward(self, latent_sample: Tensor) -> Tensor:
        return self.vae.decode(latent_sample, return_dict=False)[0]


class Encoder(nn.Module):
    """Pixels to the means and log-variances of latents."""

    names = ("latent_parameters",)

    def __init__(self, vae: Any):
        super().__init__()
        self.vae = vae

    def forward(self, sample: Tensor) -> Tensor:
        return self.vae.encode(sample).latent_dist.parameters


def check_parts(pipe: Any) -> None:
    """Raise InputError if optimum-intel has no class for a pipeline's parts that this module writes."""
    has = pipe is not None and hasattr(pipe, "unet") and hasattr(pipe, "text_encoder") and hasattr(pipe, "vae")
    if not has:
        what = "a bare denoiser" if pipe is None else f"a {type(pipe).__name__}"
        raise InputError(f"{what} cannot be exported whole: only Stable Diffusion's pipelines of a UNet (1, 2, XL) can")


def write_parts(pipe: Any, folder: Path) -> None:
    """Write ``text_encoder*/``, ``vae_decoder/`` and ``vae_encoder/``: ``openvino_model.xml`` and ``config.json``."""
    for name in TEXT_ENCODERS:
        encoder = getattr(pipe, name, None)
        if encoder is not None:
            tokens = torch.zeros(2, encoder.config.max_position_embeddings, dtype=torch.int64)
            _write(TextEncoder(encoder), "input_ids", tokens, folder / name)
    vae = pipe.vae
    side = 8 * 2 ** (len(vae.config.block_out_channels) - 1)
    latents, pixels = (
        torch.zeros(2, vae.config.latent_channels, 8, 8),
        torch.zeros(2, vae.config.in_channels, side, side),
    )
    for name, part, names, example in (
        ("vae_decoder", Decoder(vae), "latent_sample", latents),
        ("vae_encoder", Encoder(vae), "sample", pixels),
    ):
        _write(part, names, example, folder / name)
        config = {key: value for key, value in vae.config.items() if not key.startswith("_")}
        text = json.dumps({"_class_name": type(vae).__name__, **config}, indent=2, default=list)
        (folder / name / "config.json").write_text(text + "\n")


def _write(part: Any, given: str, example: Tensor, folder: Path) -> None:
    ov = needed("openvino", "openvino")
    folder.mkdir(exist_ok=True)
    with tracing():
        model = ov.convert_model(part.float().eval(), example_input=example)
    model.inputs[0].get_tensor().set_names({given})
    names: Sequence[str] = part.names
    for port, name in zip(model.outputs, names, strict=True):
        port.get_tensor().set_names({name})
    ov.save_model(model, folder / MODEL, compress_to_fp16=False)
