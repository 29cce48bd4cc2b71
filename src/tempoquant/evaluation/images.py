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

from tempoquant.errors import InputError, one_line
from tempoquant.evaluation.features import file_digest

SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".ppm", ".pgm", ".tif", ".tiff")
GREY = ("1", "L")
HIGH_DEPTH = ("I", "F", "I;16", "I;16L", "I;16B", "I;16N")
"""Modes of more than 8 bits a pixel, which Pillow would clip at 255."""
EAGER_PIXELS = 2**27
"""A folder of at most so many pixels is read in full when it is opened, so that a damaged file is found at once."""


class ImageSet(Protocol):
    """A set of images of one size.

    Attributes:
        name: in messages.
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
    """A set of images in memory.

    Args:
        images: (N, H, W, C) uint8 with C 1 or 3, N at least 1.
        name: in messages.

    Raises:
        InputError: images of another dtype or shape, or none.
    """

    def __init__(self, images: Tensor, name: str = "the given images"):
        if images.dtype != torch.uint8 or images.ndim != 4 or images.shape[-1] not in (1, 3) or not len(images):
            actual = f"{images.dtype} {tuple(images.shape)}"
            raise InputError(f"{name} are {actual}: (N, H, W, C) uint8 with C 1 or 3 is needed")
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
        digest = hashlib.sha256(repr(tuple(self.images.shape)).encode())
        for batch in self.images.split(1024):
            digest.update(batch.cpu().contiguous().numpy().tobytes())
        return digest.hexdigest()


class FolderImages:
    """All image files in a folder and its subfolders, by name; grey ones are RGB if any file is.

    Args:
        folder: searched recursively for files that end in ``SUFFIXES``.

    Raises:
        InputError: no image there, a file that cannot be read, or images of several sizes. Of more than 2^27 pixels
            only headers are read, so that a damaged file is found when it is used.
    """

    def __init__(self, folder: str | Path):
        self.name, self.folder = str(folder), Path(folder)
        candidates = (path for path in self.folder.rglob("*") if path.suffix.lower() in SUFFIXES)
        self.paths = sorted(path for path in candidates if not path.is_dir())
        if not self.paths:
            raise InputError(f"no images in {folder}: files ending in {', '.join(SUFFIXES)} are read")
        first, channels = None, 1
        for path in self.paths:
            with _open_image(path) as image:
                size, mode = image.size, image.mode
            if mode in HIGH_DEPTH:
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
        if first[0] * first[1] * len(self.paths) <= EAGER_PIXELS:
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
        with _open_image(path) as image:
            return pixels(image.convert("RGB" if self.shape[2] == 3 else "L"))


class DatasetImages:
    """The images of a torch dataset.

    Args:
        dataset: with ``__len__`` and ``__getitem__``; items are PIL images, (H, W, C) uint8 tensors, or tuples that
            begin with one.
        name: in messages.

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
            raise InputError(
                f"{self.name}: image {index} is {tuple(image.shape)} and the first {self.shape}: one size is needed"
            )
        return image

    def batches(self, size: int) -> Iterator[Tensor]:
        """See :meth:`ImageSet.batches`."""
        for start in range(0, len(self), size):
            yield torch.stack([self.at(i) for i in range(start, min(start + size, len(self)))])

    def digest(self) -> str:
        """See :meth:`ImageSet.digest`; reads every item."""
        digest = hashlib.sha256(repr((len(self), *self.shape)).encode())
        for batch in self.batches(256):
            digest.update(batch.contiguous().numpy().tobytes())
        return digest.hexdigest()

    def _read(self, index: int) -> Tensor:
        try:
            item = self.dataset[index]
        except Exception as error:
            raise InputError(f"{self.name}: image {index} cannot be read: {one_line(error)}") from error
        item = item[0] if isinstance(item, (tuple, list)) else item
        if isinstance(item, Image.Image):
            return pixels(item.convert("L" if item.mode in GREY else "RGB"))
        return TensorImages(torch.as_tensor(item)[None], f"{self.name}'s items").images[0]


def npz_images(path: Path, array: np.ndarray) -> TensorImages:
    """A set of the images in ``arr_0`` of a ``.npz`` file.

    Args:
        path: of the file.
        array: (N, H, W, C) uint8, or (N, H, W) of grey images.

    Raises:
        InputError: an array of another dtype or shape.
    """
    if array.ndim == 3:
        array = array[..., None]
    if array.dtype != np.uint8 or array.ndim != 4:
        raise InputError(f"arr_0 of {path} is {array.dtype} {array.shape}: (N, H, W, C) uint8 is needed")
    return TensorImages(torch.from_numpy(np.ascontiguousarray(array)), str(path))


def pixels(image: Image.Image) -> Tensor:
    """Pixels of an image of mode L or RGB, (H, W, 1 or 3) uint8."""
    array = np.array(image)
    return torch.from_numpy(array if array.ndim == 3 else array[..., None])


@contextmanager
def _open_image(path: Path) -> Iterator[Image.Image]:
    """Open an image file in a ``with`` block, which may read its pixels.

    Raises:
        InputError: it is no image, is damaged, or exceeds Pillow's limit of pixels.
    """
    if not path.is_file():
        raise InputError(f"{path} cannot be read as an image: it is no file")
    try:
        with Image.open(path) as image:
            yield image
    except Exception as error:
        # Every decoder of Pillow's has errors of its own.
        raise InputError(f"{path} cannot be read as an image: {one_line(error)}") from None
