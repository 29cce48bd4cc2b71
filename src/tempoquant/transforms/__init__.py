"""What changes a layer without changing what it computes, before it is rounded."""

from tempoquant.transforms.split import PARTS, install_splits

__all__ = [
    "PARTS",
    "install_splits",
]
