"""What generated images are compared with: opened and checked before any work, computed when needed."""

import hashlib
import zipfile
import zlib
from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from tempoquant.errors import InputError
from tempoquant.evaluation.extractors import FeatureExtractor
from tempoquant.evaluation.images import DatasetImages, FolderImages, ImageSet, TensorImages, npz_images
from tempoquant.evaluation.inception import InceptionFeatures
from tempoquant.evaluation.moments import Gaussian
from tempoquant.evaluation.statistics import Made, Statistics, cached, load_statistics
from tempoquant.progress import Progress

NPZ_GAUSSIANS = {"pooled": ("mu", "sigma"), "spatial": ("mu_s", "sigma_s")}
"""Arrays of a ``.npz`` of statistics: the first pair is pytorch-fid's, and ADM adds the second for sFID."""


@dataclass(frozen=True)
class RealSet:
    """A reference: images, or statistics of images, or both (ADM's files hold Gaussians of all and some images).

    Gaussians come from the statistics where there are any, single features from the images.
    """

    name: str
    images: ImageSet | None = None
    statistics: Statistics | None = None

    def digest(self) -> str:
        """SHA-256, hex, of the images; of statistics that came without any, of their numbers."""
        if self.images is not None:
            return self.images.digest()
        assert self.statistics is not None
        found = hashlib.sha256()
        for kind, gaussian in sorted(self.statistics.gaussians.items()):
            for part in (gaussian.mean, gaussian.covariance):
                found.update(kind.encode() + part.contiguous().numpy().tobytes())
        return found.hexdigest()

    def check(self, extractor: FeatureExtractor, fitted: Collection[str], rows: Collection[str]) -> None:
        """Raise InputError unless these outputs' Gaussians and rows can be had with this extractor."""
        held = self.statistics
        if held is not None:
            _check_extractor(self.name, held, extractor)
        if self.images is None:
            for kind in rows:
                if held is None or kind not in held.rows:
                    text = f"{self.name} holds no single features: kid and pr need"
                    raise InputError(f"{text} a reference of images, or statistics that were saved for them")
        for kind in fitted:
            if held is not None and kind not in held.gaussians:
                keys = " and ".join(NPZ_GAUSSIANS[kind])
                raise InputError(f"{self.name} holds no {kind} statistics ({keys} in a .npz)")

    def check_shape(self, shape: tuple[int, ...], dimensions: Mapping[str, int]) -> None:
        """Raise InputError unless the images are of this (H, W, C), and their features have so many dimensions.

        What a file does not say is not checked.
        """
        made = None if self.statistics is None else self.statistics.made
        own = self.images.shape if self.images is not None else made.shape if made is not None else None
        if own is not None and tuple(own) != tuple(shape):
            mine, theirs = ("x".join(map(str, s)) for s in (own, shape))
            raise InputError(
                f"{self.name} holds {mine} images and the generated ones are {theirs} (height, width, channels)"
            )
        for kind, gaussian in ({} if self.statistics is None else self.statistics.gaussians).items():
            if kind in dimensions and len(gaussian.mean) != dimensions[kind]:
                found = f"{len(gaussian.mean)} {kind} features"
                raise InputError(f"{self.name} holds {found}, where the extractor gives {dimensions[kind]}")

    def measured(
        self, extractor: FeatureExtractor, rows: Collection[str], cache: Path | None, progress: Progress | None
    ) -> Statistics:
        """The statistics that :meth:`check` promised."""
        held = self.statistics
        if self.images is None or (held is not None and all(kind in held.rows for kind in rows)):
            assert held is not None
            return held
        found = cached(self.images, extractor, rows=rows, cache=cache, progress=progress)
        return found if held is None else replace(held, rows=found.rows)


def open_reference(reference: Any) -> RealSet:
    """A reference as a user names it.

    Args:
        reference: a folder of images; a ``.npz`` of images (``arr_0``), of statistics (``mu``, ``sigma``, and ADM's
            ``mu_s``, ``sigma_s``) or both; a ``.safetensors`` of statistics that this package wrote; a tensor
            (N, H, W, C) uint8; a dataset of images; or what this function or ``gather`` returned.

    Raises:
        InputError: it is none of these, or not as described. FormatError: statistics that are damaged.
    """
    if isinstance(reference, RealSet):
        return reference
    if isinstance(reference, Statistics):
        return RealSet(reference.source, statistics=reference)
    if isinstance(reference, Tensor):
        return RealSet("the reference", TensorImages(reference, "the reference images"))
    if isinstance(reference, (str, Path)):
        return _open_path(Path(reference))
    if hasattr(reference, "batches"):
        return RealSet(reference.name, reference)
    if hasattr(reference, "__getitem__") and hasattr(reference, "__len__"):
        return RealSet("the dataset", DatasetImages(reference))
    raise InputError(f"a {type(reference).__name__} is no reference: a path, a tensor or a dataset is needed")


def _open_path(path: Path) -> RealSet:
    if path.is_dir():
        return RealSet(str(path), FolderImages(path))
    if not path.is_file():
        raise InputError(f"reference {path}: no such file or folder")
    if path.suffix == ".npz":
        return _open_npz(path)
    if path.suffix == ".safetensors":
        return RealSet(str(path), statistics=load_statistics(path))
    raise InputError(f"reference {path}: a folder of images, a .npz or a .safetensors of statistics is needed")


def _open_npz(path: Path) -> RealSet:
    try:
        with np.load(path, allow_pickle=False) as file:
            arrays = {name: file[name] for name in file.files}
    except (ValueError, TypeError, OSError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        raise InputError(f"{path} cannot be read: {error}") from None
    gaussians = {kind: _gaussian(path, arrays, *keys) for kind, keys in NPZ_GAUSSIANS.items() if keys[0] in arrays}
    images = npz_images(path, arrays["arr_0"]) if "arr_0" in arrays else None
    if images is None and "pooled" not in gaussians:
        found = ", ".join(arrays) or "nothing"
        raise InputError(f"{path} holds {found}: arr_0 (images), or mu and sigma (statistics) are needed")
    return RealSet(str(path), images, Statistics(str(path), None, gaussians) if gaussians else None)


def _gaussian(path: Path, arrays: dict[str, np.ndarray], mean_key: str, covariance_key: str) -> Gaussian:
    mean, covariance = arrays[mean_key], arrays.get(covariance_key)
    if covariance is None or mean.ndim != 1 or covariance.shape != (len(mean), len(mean)):
        shapes = f"{mean.shape} and {None if covariance is None else covariance.shape}"
        raise InputError(f"{path}: {mean_key} and {covariance_key} are {shapes}: (D,) and (D, D) are needed")
    for key, array in ((mean_key, mean), (covariance_key, covariance)):
        if array.dtype.kind != "f" or not np.isfinite(array).all():
            raise InputError(f"{path}: {key} ({array.dtype}) holds values that are no finite numbers")
    return Gaussian(torch.from_numpy(mean).double(), torch.from_numpy(covariance).double(), None)


def _check_extractor(name: str, held: Statistics, extractor: FeatureExtractor) -> None:
    if held.made is None:
        if extractor.name != InceptionFeatures.name:
            raise InputError(f"{name} holds statistics of Inception features, and {extractor.name} is asked for")
        return
    wanted = Made.by(extractor, held.made.shape, held.made.content)
    if held.made != wanted:
        theirs, ours = (f"{made.extractor} ({made.sha256[:8]})" for made in (held.made, wanted))
        raise InputError(f"{name} holds statistics of {theirs} features, and {ours} is asked for")
