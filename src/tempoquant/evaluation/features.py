"""The bundled feature network for Fashion-MNIST; spatial features and digests for all extractors."""

import hashlib
from pathlib import Path

from torch import Tensor, nn
from torch.nn import functional

SPATIAL_CHANNELS = 7


class SmallClassifier(nn.Module):
    """Three strided convolutions, a 64-number feature and a linear head over 10 classes.

    Input is grey (B, 1, 32, 32) in [-1, 1].
    """

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(1, 16, 3, stride=2, padding=1)
        self.conv2 = nn.Conv2d(16, 32, 3, stride=2, padding=1)
        self.conv3 = nn.Conv2d(32, 64, 3, stride=2, padding=1)
        self.head = nn.Linear(64, 10)

    def maps(self, images: Tensor) -> Tensor:
        """The last feature map (B, 64, 4, 4) of images (B, 1, 32, 32) in [-1, 1]."""
        hidden = functional.relu(self.conv1(images))
        hidden = functional.relu(self.conv2(hidden))
        return functional.relu(self.conv3(hidden))

    def features(self, images: Tensor) -> Tensor:
        """The pooled feature (B, 64) of images (B, 1, 32, 32) in [-1, 1]."""
        return self.maps(images).mean(dim=(2, 3))

    def forward(self, images: Tensor) -> Tensor:
        """Class logits (B, 10)."""
        return self.head(self.features(images))


def spatial(maps: Tensor) -> Tensor:
    """Spatial features (N, H * W * 7): the first 7 channels of maps (N, C, H, W), position by position.

    The number is that of Nash et al. 2021; the order is that of ADM's files of reference statistics.
    """
    return maps[:, :SPATIAL_CHANNELS].permute(0, 2, 3, 1).flatten(1)


def file_digest(path: Path) -> str:
    """SHA-256 of a file, hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
