"""Sets of images to compare with: tensors, datasets, folders of files, and ``.npz`` files."""

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from tempoquant.errors import InputError
from tempoquant.evaluation.features import file_digest

SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".ppm", ".pgm", ".tif", ".tiff")
GREY = ("1", "L")
DEEP = ("I", "F", "I;16", "I;16L", "I;16B", "I;16N")
"""Modes of more than 8 bits a pixel, which Pillow would clip at 255."""
CHEAP = 2**27
"""Pixels of a folder, in all, that are read once for the sake of a damaged file: seconds."""


class ImageSet(Protocol):
    """Images of one size.

    Attributes:
        name: what messages call it.
        shape: (H, W, C), C 1 or 3.
    """

    name: str
    shape: tuple[int, int, int]

    def __len__(self) -> int: ...

    def at(self, index: int) -> Tensor:
        """One image, (H, W, C) uint8."""
        ...

    def batches(self, size: int) -> Iterator[Tensor]:
        """All images in order, (N, H, W, C) uint8 with N at most ``size``."""
        ...

    def digest(self) -> str:
        """SHA-256 of the content, hex."""
        ...


class TensorImages:
    """Images in memory, (N, H, W, C) uint8 with C 1 or 3; InputError if they are anything else, or none."""

    def __init__(self, images: Tensor, name: str = "the given images"):
        if images.dtype != torch.uint8 or images.ndim != 4 or images.shape[-1] not in (1, 3) or not len(images):
            found = f"{images.dtype} {tuple(images.shape)}"
            raise InputError(f"{name} are {found}: (N, H, W, C) uint8 with C 1 or 3 is needed")
        self.images, self.name = images, name
        height, width, channels = images.shape[1:]
        self.shape = (height, width, channels)

    def __len__(self) -> int:
        return len(self.images)

    def at(self, index: int) -> Tensor:
        """See :meth:`ImageSet.at`."""
        return self.images[index]

    def batches(self, size: int) -> Iterator[Tensor]:
        """See :meth:`ImageSet.batches`."""
        yield from self.images.split(size)

    def digest(self) -> str:
        """See :meth:`ImageSet.digest`."""
        found = hashlib.sha256(repr(tuple(self.images.shape)).encode())
        for batch in self.images.split(1024):
            found.update(batch.cpu().contiguous().numpy().tobytes())
        return found.hexdigest()


class FolderImages:
    """All image files in a folder and those within it, by name. Colour files make grey ones among them RGB.

    Raises:
        InputError: no image there, a file that cannot be read, or images of several sizes. Of many images only headers
            are read, so that a damaged one is found when it is used.
    """

    def __init__(self, folder: str | Path):
        self.name, self.folder = str(folder), Path(folder)
        named = (path for path in self.folder.rglob("*") if path.suffix.lower() in SUFFIXES)
        self.paths = sorted(path for path in named if not path.is_dir())
        if not self.paths:
            raise InputError(f"no images in {folder}: files ending in {', '.join(SUFFIXES)} are read")
        first, channels = None, 1
        for path in self.paths:
            with _opened(path) as image:
                size, mode = image.size, image.mode
            if mode in DEEP:
                raise InputError(f"{path} has pixels of mode {mode}: 8 bits a channel are needed")
            first = first or size
            if size != first:
                raise InputError(
                    f"{path} is {size[0]}x{size[1]} and {self.paths[0].name} {first[0]}x{first[1]}: "
                    "a reference needs images of one size"
                )
            channels = channels if mode in GREY else 3
        assert first is not None
        self.shape = (first[1], first[0], channels)
        if first[0] * first[1] * len(self.paths) <= CHEAP:
            for path in self.paths:
                self._read(path)

    def __len__(self) -> int:
        return len(self.paths)

    def at(self, index: int) -> Tensor:
        """See :meth:`ImageSet.at`."""
        return self._read(self.paths[index])

    def batches(self, size: int) -> Iterator[Tensor]:
        """See :meth:`ImageSet.batches`."""
        for start in range(0, len(self.paths), size):
            yield torch.stack([self._read(path) for path in self.paths[start : start + size]])

    def digest(self) -> str:
        """See :meth:`ImageSet.digest`; of the files' bytes, in order of their names."""
        return hashlib.sha256("".join(file_digest(path) for path in self.paths).encode()).hexdigest()

    def _read(self, path: Path) -> Tensor:
        with _opened(path) as image:
            return pixels(image.convert("RGB" if self.shape[2] == 3 else "L"))


class DatasetImages:
    """A dataset of torch's kind: items are PIL images, (H, W, C) uint8 tensors, or tuples that begin with one.

    Raises:
        InputError: it is empty. A later item of another size or kind, or one that cannot be read, raises it when that
            item is read.
    """

    def __init__(self, dataset: Any, name: str = "the dataset"):
        self.dataset, self.name = dataset, name
        if not len(dataset):
            raise InputError(f"{name} is empty")
        height, width, channels = self._read(0).shape
        self.shape = (height, width, channels)

    def __len__(self) -> int:
        return len(self.dataset)

    def at(self, index: int) -> Tensor:
        """See :meth:`ImageSet.at`."""
        image = self._read(index)
        if image.shape != self.shape:
            raise InputError(f"{self.name}: image {index} is {tuple(image.shape)}, and the first {self.shape}")
        return image

    def batches(self, size: int) -> Iterator[Tensor]:
        """See :meth:`ImageSet.batches`."""
        for start in range(0, len(self), size):
            yield torch.stack([self.at(i) for i in range(start, min(start + size, len(self)))])

    def digest(self) -> str:
        """See :meth:`ImageSet.digest`; reads every item."""
        found = hashlib.sha256(repr((len(self), *self.shape)).encode())
        for batch in self.batches(256):
            found.update(batch.contiguous().numpy().tobytes())
        return found.hexdigest()

    def _read(self, index: int) -> Tensor:
        try:
            item = self.dataset[index]
        except Exception as error:
            raise InputError(f"{self.name}: image {index} cannot be read: {_line(error)}") from error
        item = item[0] if isinstance(item, (tuple, list)) else item
        if isinstance(item, Image.Image):
            return pixels(item.convert("L" if item.mode in GREY else "RGB"))
        return TensorImages(torch.as_tensor(item)[None], f"{self.name}'s items").images[0]


def npz_images(path: Path, array: np.ndarray) -> TensorImages:
    """The array ``arr_0`` of a ``.npz`` file, (N, H, W, C) uint8, or (N, H, W) of grey images."""
    if array.ndim == 3:
        array = array[..., None]
    if array.dtype != np.uint8 or array.ndim != 4:
        raise InputError(f"arr_0 of {path} is {array.dtype} {array.shape}: (N, H, W, C) uint8 is needed")
    return TensorImages(torch.from_numpy(np.ascontiguousarray(array)), str(path))


def pixels(image: Image.Image) -> Tensor:
    """A picture of mode L or RGB as (H, W, 1 or 3) uint8."""
    array = np.array(image)
    return torch.from_numpy(array if array.ndim == 3 else array[..., None])


@contextmanager
def _opened(path: Path) -> Iterator[Image.Image]:
    """Open an image file for the length of the block, which may read its pixels.

    Raises:
        InputError: it is no image, damaged, or so large that it may be meant to fill the memory.
    """
    if not path.is_file():
        raise InputError(f"{path} cannot be read as an image: it is no file")
    try:
        with Image.open(path) as image:
            yield image
    except Exception as error:
        # Every decoder of Pillow's has errors of its own.
        raise InputError(f"{path} cannot be read as an image: {_line(error)}") from None


def _line(error: Exception) -> str:
    return " ".join(str(error).split()) or type(error).__name__
