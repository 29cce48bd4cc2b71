"""Reference sets that generated images are compared with: opened and checked first, statistics on demand."""

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
from tempoquant.evaluation.statistics import Provenance, Statistics, cached_statistics, load_statistics
from tempoquant.progress import Progress

NPZ_GAUSSIANS = {"pooled": ("mu", "sigma"), "spatial": ("mu_s", "sigma_s")}
"""Arrays of a ``.npz`` of statistics: the first pair is pytorch-fid's, and ADM adds the second for sFID."""


@dataclass(frozen=True)
class ReferenceSet:
    """A reference: images, or statistics of images, or both (ADM's files hold Gaussians of all and some images).

    Gaussians come from the statistics where there are any, single feature vectors from the images.

    Attributes:
        name: in messages and reports.
        images: None for statistics alone.
        statistics: None for images alone.
    """

    name: str
    images: ImageSet | None = None
    statistics: Statistics | None = None

    def digest(self) -> str:
        """SHA-256, hex, of the images; of statistics that came without any, of their numbers."""
        if self.images is not None:
            return self.images.digest()
        assert self.statistics is not None
        digest = hashlib.sha256()
        for kind, gaussian in sorted(self.statistics.gaussians.items()):
            for part in (gaussian.mean, gaussian.covariance):
                digest.update(kind.encode() + part.contiguous().numpy().tobytes())
        return digest.hexdigest()

    def check(self, extractor: FeatureExtractor, gaussians: Collection[str], rows: Collection[str]) -> None:
        """Check that the reference has, or its images allow to compute, what metrics need.

        Args:
            extractor: of the features.
            gaussians: outputs whose Gaussians are needed.
            rows: outputs whose single feature vectors are needed.

        Raises:
            InputError: statistics of another extractor, or without a needed output.
        """
        statistics = self.statistics
        if statistics is not None:
            _check_extractor(self.name, statistics, extractor)
        if self.images is None:
            for kind in rows:
                if statistics is None or kind not in statistics.rows:
                    text = f"{self.name} holds no single features: kid and pr need"
                    raise InputError(f"{text} a reference of images, or statistics that were saved for them")
        for kind in gaussians:
            if statistics is not None and kind not in statistics.gaussians:
                keys = " and ".join(NPZ_GAUSSIANS[kind])
                raise InputError(f"{self.name} holds no {kind} statistics ({keys} in a .npz)")

    def check_shape(self, shape: tuple[int, ...], dimensions: Mapping[str, int]) -> None:
        """Check that generated images fit the reference; what a file does not name is not checked.

        Args:
            shape: (H, W, C) of the generated images.
            dimensions: of the extractor's features by output.

        Raises:
            InputError: the reference has images of another shape, or features of other dimensions.
        """
        provenance = None if self.statistics is None else self.statistics.provenance
        stored = provenance.shape if provenance is not None else None
        reference = self.images.shape if self.images is not None else stored
        if reference is not None and tuple(reference) != tuple(shape):
            real, generated = ("x".join(map(str, s)) for s in (reference, shape))
            raise InputError(
                f"{self.name} holds {real} images and the generated ones are {generated} (height, width, channels)"
            )
        for kind, gaussian in ({} if self.statistics is None else self.statistics.gaussians).items():
            if kind in dimensions and len(gaussian.mean) != dimensions[kind]:
                stored_features = f"{len(gaussian.mean)} {kind} features"
                raise InputError(f"{self.name} holds {stored_features}, where the extractor gives {dimensions[kind]}")

    def statistics_for(
        self, extractor: FeatureExtractor, rows: Collection[str], cache: Path | None, progress: Progress | None
    ) -> Statistics:
        """Statistics with single feature vectors of ``rows``: the stored ones, or computed from the images.

        Args:
            extractor: that :meth:`check` accepted.
            rows: outputs whose single feature vectors are needed.
            cache: folder of cached statistics; None for none.
            progress: advanced by the images.
        """
        stored = self.statistics
        if self.images is None or (stored is not None and all(kind in stored.rows for kind in rows)):
            assert stored is not None
            return stored
        computed = cached_statistics(self.images, extractor, rows=rows, cache=cache, progress=progress)
        return computed if stored is None else replace(stored, rows=computed.rows)


def open_reference(reference: Any) -> ReferenceSet:
    """Open a reference of any supported kind.

    Args:
        reference: a folder of images; a ``.npz`` of images (``arr_0``), of statistics (``mu``, ``sigma``, and ADM's
            ``mu_s``, ``sigma_s``) or both; a ``.safetensors`` of statistics that this package wrote; a tensor
            (N, H, W, C) uint8; a dataset of images; or what this function or
            ``compute_statistics`` returned.

    Raises:
        InputError: it is none of these, or not as described.
        FormatError: statistics that are damaged.
    """
    if isinstance(reference, ReferenceSet):
        return reference
    if isinstance(reference, Statistics):
        return ReferenceSet(reference.source, statistics=reference)
    if isinstance(reference, Tensor):
        return ReferenceSet("the reference", TensorImages(reference, "the reference images"))
    if isinstance(reference, (str, Path)):
        return _open_path(Path(reference))
    if hasattr(reference, "batches"):
        return ReferenceSet(reference.name, reference)
    if hasattr(reference, "__getitem__") and hasattr(reference, "__len__"):
        return ReferenceSet("the dataset", DatasetImages(reference))
    raise InputError(f"a {type(reference).__name__} is no reference: a path, a tensor or a dataset is needed")


def _open_path(path: Path) -> ReferenceSet:
    if path.is_dir():
        return ReferenceSet(str(path), FolderImages(path))
    if not path.is_file():
        raise InputError(f"reference {path}: no such file or folder")
    if path.suffix == ".npz":
        return _open_npz(path)
    if path.suffix == ".safetensors":
        return ReferenceSet(str(path), statistics=load_statistics(path))
    raise InputError(f"reference {path}: a folder of images, a .npz or a .safetensors of statistics is needed")


def _open_npz(path: Path) -> ReferenceSet:
    try:
        with np.load(path, allow_pickle=False) as file:
            arrays = {name: file[name] for name in file.files}
    except (ValueError, TypeError, OSError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        raise InputError(f"{path} cannot be read: {error}") from None
    gaussians = {kind: _gaussian(path, arrays, *keys) for kind, keys in NPZ_GAUSSIANS.items() if keys[0] in arrays}
    images = npz_images(path, arrays["arr_0"]) if "arr_0" in arrays else None
    if images is None and "pooled" not in gaussians:
        names = ", ".join(arrays) or "nothing"
        raise InputError(f"{path} holds {names}: arr_0 (images), or mu and sigma (statistics) are needed")
    return ReferenceSet(str(path), images, Statistics(str(path), None, gaussians) if gaussians else None)


def _gaussian(path: Path, arrays: dict[str, np.ndarray], mean_key: str, covariance_key: str) -> Gaussian:
    mean, covariance = arrays[mean_key], arrays.get(covariance_key)
    if covariance is None or mean.ndim != 1 or covariance.shape != (len(mean), len(mean)):
        shapes = f"{mean.shape} and {None if covariance is None else covariance.shape}"
        raise InputError(f"{path}: {mean_key} and {covariance_key} are {shapes}: (D,) and (D, D) are needed")
    for key, array in ((mean_key, mean), (covariance_key, covariance)):
        if array.dtype.kind != "f" or not np.isfinite(array).all():
            raise InputError(f"{path}: {key} ({array.dtype}) holds values that are no finite numbers")
    return Gaussian(torch.from_numpy(mean).double(), torch.from_numpy(covariance).double(), None)


def _check_extractor(name: str, statistics: Statistics, extractor: FeatureExtractor) -> None:
    stored = statistics.provenance
    if stored is None:
        if extractor.name != InceptionFeatures.name:
            raise InputError(f"{name} holds statistics of Inception features, and {extractor.name} is requested")
        return
    requested = Provenance.of(extractor, stored.shape, stored.content)
    if stored != requested:
        stored_name, requested_name = (f"{p.extractor} ({p.sha256[:8]})" for p in (stored, requested))
        raise InputError(f"{name} holds statistics of {stored_name} features, and {requested_name} is requested")
