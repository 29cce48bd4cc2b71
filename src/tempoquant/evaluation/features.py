"""The embedded feature network of Frechet distances on Fashion-MNIST: small, so its distance is never called FID."""

from torch import Tensor, nn
from torch.nn import functional


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

    def features(self, images: Tensor) -> Tensor:
        """The pooled feature (B, 64) of images (B, 1, 32, 32) in [-1, 1]."""
        hidden = functional.relu(self.conv1(images))
        hidden = functional.relu(self.conv2(hidden))
        hidden = functional.relu(self.conv3(hidden))
        return hidden.mean(dim=(2, 3))

    def forward(self, images: Tensor) -> Tensor:
        """Class logits (B, 10)."""
        return self.head(self.features(images))
