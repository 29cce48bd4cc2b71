"""Inception-v3 features of the published metrics, through torch-fidelity's network and converted weights."""

import importlib
import io
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor

from tempoquant.errors import InputError
from tempoquant.evaluation.features import file_digest, spatial

MODULE = "torch_fidelity.feature_extractor_inceptionv3"
PUBLISHED = "6726825d"
"""Prefix of the SHA-256 of the published weights (2015-12-05); pytorch-fid publishes the same file."""
GRAPH_OUTPUTS = ("2048", "logits_unbiased")


class InceptionFeatures:
    """Features of Inception-v3 (weights of 2015-12-05): 2048 pooled, 2023 spatial, and 1008 logits.

    The numbers are those of the ADM evaluation suite: ``pool_3``; the first 7 channels of ``mixed_6/conv`` (Nash et
    al. 2021 for sFID), which is the 1x1 branch of the block Mixed_6d; and the logits without their bias.

    Args:
        weights: a local ``.pth`` or ``.safetensors`` file of torch-fidelity's network; None for torch's own download
            folder, which they are downloaded to if they are missing. Weights of another hash give the extractor
            another name.
        device: that the network runs on.

    Raises:
        InputError: torch-fidelity is missing or cannot be imported, the file is not there or holds something else.
    """

    name = "inception"
    preprocessing = "grey repeated to RGB; 299x299, bilinear as in TensorFlow 1; (pixel - 128) / 128"
    outputs: tuple[str, ...] = ("pooled", "spatial", "logits")

    def __init__(self, weights: str | Path | None = None, device: str = "cpu"):
        module = _torch_fidelity()
        path = _published(module.URL_INCEPTION_V3) if weights is None else Path(weights)
        state = _state(path)
        self.digest, self.device = file_digest(path), device
        if not self.digest.startswith(PUBLISHED):
            self.name = f"inception-{self.digest[:8]}"
        # Its constructor reads a pickle without weights_only; what it reads here is written from safe tensors.
        safe = io.BytesIO()
        torch.save(state, safe)
        safe.seek(0)
        try:
            network = module.FeatureExtractorInceptionV3("inception", list(GRAPH_OUTPUTS), safe)
        except RuntimeError as error:
            raise InputError(f"{path} holds no Inception weights of torch-fidelity's layout: {error}") from None
        self.network = network.to(device)
        self._maps: list[Tensor] = []
        network.Mixed_6d.branch1x1.register_forward_hook(lambda *call: self._maps.append(call[-1]))

    @torch.inference_mode()
    def __call__(self, images: Tensor) -> dict[str, Tensor]:
        """The outputs of images (N, 1 or 3, H, W) uint8; grey ones are repeated."""
        self._maps.clear()
        pooled, logits = self.network(images.to(self.device).expand(-1, 3, -1, -1))
        return {"pooled": pooled.cpu(), "spatial": spatial(self._maps.pop()).float().cpu(), "logits": logits.cpu()}


def _torch_fidelity() -> Any:
    try:
        return importlib.import_module(MODULE)
    except ImportError as error:
        raise InputError(
            f"the inception features need torch-fidelity: pip install tempoquant[eval] ({error})"
        ) from None
    except (RuntimeError, OSError) as error:
        # torchvision, which it imports, raises these where it was built for another torch.
        raise InputError(f"torch-fidelity is installed and cannot be imported: {error}") from None


def _published(url: str) -> Path:
    """Path of the published weights in torch's download folder; downloads them if they are not there."""
    path = Path(torch.hub.get_dir()) / "checkpoints" / url.rsplit("/", 1)[-1]
    if not path.is_file():
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            torch.hub.download_url_to_file(url, str(path), hash_prefix=PUBLISHED)
        except (OSError, RuntimeError) as error:
            text = f"no Inception weights at {path}, and {url} cannot be read ({error})"
            raise InputError(f"{text}: give a local file with --extractor-weights") from None
    return path


def _state(path: Path) -> dict[str, Tensor]:
    if not path.is_file():
        raise InputError(f"no Inception weights at {path}")
    try:
        if path.suffix == ".safetensors":
            return load_file(str(path))
        return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        # Each reader has its own errors for a file that is something else.
        raise InputError(f"{path} cannot be read as weights: {str(error).splitlines()[0]}") from None
