"""Images to train on, by what a user calls them: a folder, a ``.npz``, idx files, or a Hugging Face dataset."""

import gzip
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from tempoquant.errors import InputError
from tempoquant.evaluation import DatasetImages, ImageSet, TensorImages, open_reference
from tempoquant.randomness import rng

IDX_IMAGES = 2051
IDX_PATTERN = "*images*idx3-ubyte*"
HF = "hf:"


def open_images(named: Any) -> ImageSet:
    """Images to train on.

    Args:
        named: a folder of images; a ``.npz`` with ``arr_0`` (N, H, W, C) uint8; an idx file of grey images
            (``train-images-idx3-ubyte``, gzipped or not) or a folder with one; ``"hf:NAME"`` or ``"hf:NAME:COLUMN"`` of
            the ``datasets`` library; a tensor (N, H, W, C) uint8; a dataset of images.

    Raises:
        InputError: it is none of these, holds no images, or images of several sizes.
    """
    if isinstance(named, str) and named.startswith(HF):
        return _hugging_face(named.removeprefix(HF))
    if isinstance(named, str | Path):
        path = Path(named)
        idx = sorted(path.glob(IDX_PATTERN)) if path.is_dir() else [path] if "idx3-ubyte" in path.name else []
        if idx:
            chosen = [file for file in idx if file.name.startswith("train")] or idx
            return TensorImages(_read_idx(chosen[0]), str(chosen[0]))
        if not path.exists():
            raise InputError(f"no data at {path}: a folder of images, a .npz, idx files or hf:NAME is needed")
    if isinstance(named, Tensor):
        return TensorImages(named)
    opened = open_reference(named)
    if opened.images is None:
        raise InputError(f"{opened.name} holds statistics and no images")
    return opened.images


class Pictures:
    """Images as a model's samples: drawn by key, in [-1, 1].

    Grey images of idx files, or of a tensor, that are smaller than the model's are padded with black on all sides.

    Raises:
        InputError: the model takes another number of channels, another size, or no images.
    """

    def __init__(self, images: ImageSet, shape: Sequence[int]):
        self.images = images
        if len(shape) != 3:
            raise InputError(f"{images.name}: images are no samples of {tuple(shape)}: train this model without --data")
        channels, *size = shape
        height, width, depth = images.shape
        expected = f"{size[0]}x{size[1]}x{channels}"
        sizes = f"images of {height}x{width}x{depth} (height, width, channels), the model takes {expected}"
        if depth != channels:
            raise InputError(f"{images.name}: {sizes}")
        self.padding = [0, 0, 0, 0]
        if [height, width] != size:
            spare = [size[1] - width, size[0] - height]
            if not isinstance(images, TensorImages) or channels != 1 or min(spare) < 0:
                raise InputError(f"{images.name}: {sizes}: resize them")
            self.padding = [part for room in spare for part in (room // 2, room - room // 2)]

    def draw(self, count: int, rows: slice, *key: object) -> Tensor:
        """Some of ``count`` drawn images, (N, C, H, W) float32 in [-1, 1].

        Args:
            count: images of the whole batch.
            rows: those to draw.
            key: names the random numbers.
        """
        drawn = torch.randint(len(self.images), (count,), generator=rng(*key))[rows].tolist()
        pixels = torch.stack([self.images.at(image) for image in drawn]).permute(0, 3, 1, 2).float() / 127.5 - 1
        return functional.pad(pixels, self.padding, value=-1.0)


def _hugging_face(named: str) -> ImageSet:
    try:
        import datasets
    except ImportError:
        raise InputError(f"{HF}{named} needs the datasets library: pip install 'tempoquant[train]'") from None
    name, _, column = named.partition(":")
    try:
        found: Any = (
            datasets.load_from_disk(name) if Path(name).is_dir() else datasets.load_dataset(name, split="train")
        )
    except Exception as error:
        raise InputError(
            f"{HF}{named} cannot be opened: {(str(error) or type(error).__name__).splitlines()[0]}"
        ) from error
    column = column or next((n for n, f in found.features.items() if isinstance(f, datasets.Image)), "")
    if column not in found.features:
        raise InputError(f"{HF}{named} has no column of images {column!r}: it has {', '.join(found.features)}")
    return DatasetImages(_Column(found, column), f"{HF}{named}")


class _Column:
    """One column of a table as a dataset of torch's kind."""

    def __init__(self, table: Any, column: str):
        self.table, self.column = table, column

    def __len__(self) -> int:
        return len(self.table)

    def __getitem__(self, index: int) -> Any:
        return self.table[index][self.column]


def _read_idx(path: Path) -> Tensor:
    """Grey pictures (N, H, W, 1) uint8 of an idx file."""
    try:
        data = path.read_bytes()
        data = gzip.decompress(data) if data[:2] == b"\x1f\x8b" else data
    except (OSError, EOFError, zlib.error) as error:
        raise InputError(f"{path} cannot be read: {error}") from None
    magic, *shape = (int.from_bytes(data[i : i + 4], "big") for i in range(0, 16, 4))
    if magic != IDX_IMAGES or not all(shape) or len(data) != 16 + torch.Size(shape).numel():
        raise InputError(f"{path} is no idx file of images")
    return torch.frombuffer(bytearray(data[16:]), dtype=torch.uint8).view(*shape, 1)
