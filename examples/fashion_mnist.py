"""Read Fashion-MNIST from the idx files of Debian's package: ``apt-get install dataset-fashion-mnist``."""

import gzip
import zlib
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional

from tempoquant.errors import FormatError, InputError

FOLDER = Path("/usr/share/datasets/fashion-mnist")
IMAGES, LABELS = 2051, 2049


def images(folder: Path, part: str = "train") -> Tensor:
    """Grey pictures (N, 1, 32, 32) uint8: 28x28, padded with black."""
    data = _idx(folder / f"{part}-images-idx3-ubyte.gz", IMAGES, header=16)
    return functional.pad(data.view(-1, 1, 28, 28), (2, 2, 2, 2))


def labels(folder: Path, part: str = "train") -> Tensor:
    """Classes (N,) int64, 0 to 9."""
    return _idx(folder / f"{part}-labels-idx1-ubyte.gz", LABELS, header=8).long()


def to_sample(pictures: Tensor) -> Tensor:
    """Pixels in [-1, 1], float32."""
    return pictures.float() / 127.5 - 1


def _idx(path: Path, magic: int, header: int) -> Tensor:
    if not path.is_file():
        raise InputError(
            f"no {path.name} in {path.parent}: install dataset-fashion-mnist, or name its folder by --data"
        )
    try:
        data = gzip.decompress(path.read_bytes())
    except (OSError, EOFError, zlib.error) as error:
        raise FormatError(f"{path} is no gzip file: {error}") from error
    numbers = [int.from_bytes(data[i : i + 4], "big") for i in range(0, header, 4)]
    size = torch.Size(numbers[1:]).numel()
    if numbers[0] != magic or len(data) != header + size or numbers[2:] not in ([], [28, 28]):
        raise FormatError(f"{path} is no idx file of Fashion-MNIST")
    return torch.frombuffer(bytearray(data[header:]), dtype=torch.uint8)
