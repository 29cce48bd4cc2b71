"""What changes a layer, but not what it computes in full precision, before it is rounded. One file a kind."""

from tempoquant.transforms.parts import is_transformable
from tempoquant.transforms.rotate import Rotate
from tempoquant.transforms.split import Split
from tempoquant.transforms.transform import TRANSFORMS, LayerTransform, Transform, install_transforms, register

__all__ = [
    "TRANSFORMS",
    "LayerTransform",
    "Rotate",
    "Split",
    "Transform",
    "install_transforms",
    "is_transformable",
    "register",
]
