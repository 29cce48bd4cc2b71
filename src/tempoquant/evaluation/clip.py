"""CLIP score: how well images fit the prompts they were drawn from."""

import hashlib
import importlib
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from tempoquant.errors import InputError


class ClipScore:
    """CLIP score of images and prompts, with a CLIP model of transformers; only safetensors weights are read.

    Scores depend much on the backbone; compare only those of equal :attr:`digest`.

    Args:
        model: a local folder or a hub id.
        device: that the model runs on.

    Attributes:
        digest: SHA-256 of the weights' names and values, hex.
        preprocessing: of images and prompts, in words.

    Raises:
        InputError: transformers is missing, or the model cannot be loaded.
    """

    def __init__(self, model: str, device: str = "cpu"):
        self.name, self.device = model, device
        transformers = _transformers()
        try:
            network = transformers.CLIPModel.from_pretrained(model, use_safetensors=True, dtype=torch.float32)
            self.tokenizer = transformers.AutoTokenizer.from_pretrained(model)
            self.images = transformers.AutoImageProcessor.from_pretrained(model)
        except (OSError, ValueError) as error:
            # The hub's messages run over many lines of advice.
            raise InputError(f"CLIP model {model!r} cannot be loaded: {str(error).splitlines()[0]}") from None
        self.network = network.eval().to(device)
        self.digest = _digest(network.state_dict())
        self.preprocessing = f"{_describe(self.images)}; prompts cut at {self._length} tokens"

    @property
    def _length(self) -> int:
        return self.network.config.text_config.max_position_embeddings

    @torch.inference_mode()
    def __call__(self, images: Tensor, prompts: Sequence[str]) -> Tensor:
        """``max(cos(image, prompt), 0)`` of every pair, (N,) float64 (Hessel et al. 2021, eq. 1, with w = 1).

        Papers on quantization print the mean of these; Hessel et al. multiply it by w = 2.5.

        Args:
            images: (N, H, W, 1 or 3) uint8; grey ones are repeated.
            prompts: N, cut at the model's longest text.

        Raises:
            InputError: not one prompt an image.
        """
        if len(prompts) != len(images):
            raise InputError(f"{len(prompts)} prompts for {len(images)} images: one each is needed")
        rgb = images.cpu().expand(-1, -1, -1, 3).numpy()
        text = self.tokenizer(
            list(prompts), padding=True, truncation=True, max_length=self._length, return_tensors="pt"
        )
        inputs = {"pixel_values": self.images(list(rgb), return_tensors="pt")["pixel_values"]}
        inputs |= {name: text[name] for name in ("input_ids", "attention_mask")}
        outputs = self.network(**{name: value.to(self.device) for name, value in inputs.items()})
        cosine = functional.cosine_similarity(outputs.image_embeds.double(), outputs.text_embeds.double())
        return cosine.clamp(min=0).cpu()


def _transformers() -> Any:
    try:
        return importlib.import_module("transformers")
    except ImportError:
        raise InputError("a CLIP score needs transformers: pip install tempoquant[eval]") from None


def _digest(state: Mapping[str, Tensor]) -> str:
    digest = hashlib.sha256()
    for name, tensor in sorted(state.items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()


def _describe(processor: Any) -> str:
    size, crop = processor.size, processor.crop_size
    return (
        f"{type(processor).__name__}: resize to {dict(size)}, crop to {dict(crop)}, "
        f"mean {list(processor.image_mean)}, std {list(processor.image_std)}"
    )
