"""Text encoders and autoencoder of a pipeline in OpenVINO, float, in the files that optimum-intel reads."""

import copy
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from tempoquant.errors import InputError
from tempoquant.exporting.extras import needed
from tempoquant.exporting.openvino import MODEL
from tempoquant.exporting.traceable import tracing

TEXT_ENCODERS = ("text_encoder", "text_encoder_2")


class Part(nn.Module):
    """One component as a graph of one input.

    Args:
        component: left as it is.
        compute: ``f(component, x)``, a tensor or a tuple.
        input_name: of its input in the graph.
        names: of its outputs in the graph, in order.
    """

    def __init__(self, component: nn.Module, compute: Callable[[Any, Tensor], Any], input_name: str, names: list[str]):
        super().__init__()
        # A copy: it is traced in float32.
        self.component = copy.deepcopy(component).float().eval()
        self.compute, self.input_name, self.names = compute, input_name, names

    def forward(self, x: Tensor) -> Any:
        return self.compute(self.component, x)


def text_part(encoder: Any) -> Part:
    """A CLIP text encoder: token numbers (B, L) to its own outputs, and the hidden states of all layers."""
    projects = hasattr(encoder, "text_projection")
    first = ("text_embeds", "last_hidden_state") if projects else ("last_hidden_state", "pooler_output")

    def compute(encoder: Any, tokens: Tensor) -> tuple[Tensor, ...]:
        out = encoder(tokens, output_hidden_states=True, return_dict=True)
        return (*(out[name] for name in first), *out.hidden_states)

    layers = [f"hidden_states.{i}" for i in range(encoder.config.num_hidden_layers + 1)]
    return Part(encoder, compute, "input_ids", [*first, *layers])


def decoder_part(vae: Any) -> Part:
    """The autoencoder's decoder: latents (B, C, h, w) to pixels (B, 3, H, W)."""
    return Part(vae, lambda vae, x: vae.decode(x, return_dict=False)[0], "latent_sample", ["sample"])


def encoder_part(vae: Any) -> Part:
    """The autoencoder's encoder: pixels (B, 3, H, W) to means and log-variances of latents, (B, 2 C, h, w)."""
    return Part(vae, lambda vae, x: vae.encode(x).latent_dist.parameters, "sample", ["latent_parameters"])


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
            _write(text_part(encoder), tokens, folder / name)
    vae = pipe.vae
    side = 8 * 2 ** (len(vae.config.block_out_channels) - 1)
    _write(decoder_part(vae), torch.zeros(2, vae.config.latent_channels, 8, 8), folder / "vae_decoder")
    _write(encoder_part(vae), torch.zeros(2, vae.config.in_channels, side, side), folder / "vae_encoder")
    config = {key: value for key, value in vae.config.items() if not key.startswith("_")}
    text = json.dumps({"_class_name": type(vae).__name__, **config}, indent=2, default=list) + "\n"
    for name in ("vae_decoder", "vae_encoder"):
        (folder / name / "config.json").write_text(text)


def _write(part: Part, example: Tensor, folder: Path) -> None:
    ov = needed("openvino", "openvino")
    folder.mkdir(exist_ok=True)
    with tracing():
        model = ov.convert_model(part.eval(), example_input=example)
    model.inputs[0].get_tensor().set_names({part.input_name})
    for port, name in zip(model.outputs, part.names, strict=True):
        port.get_tensor().set_names({name})
    ov.save_model(model, folder / MODEL, compress_to_fp16=False)
