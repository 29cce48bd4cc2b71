"""Images as PNG files: single ones, a grid, or labelled rows."""

import math
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from tempoquant.errors import InputError
from tempoquant.files import replacing

SMALLEST_CELL = 64
GAP = 4
FONT_SIZE = 18
PAPER, INK = (255, 255, 255), (20, 20, 20)


def save_images(images: Tensor, folder: str | Path) -> list[Path]:
    """Write ``00000.png``, ``00001.png``, ... and return their paths.

    Args:
        images: (N, H, W, C) uint8 with C 1 or 3, as ``to_images`` gives them.
        folder: made if it does not exist.

    Raises:
        InputError: images of another dtype or shape, or none.
    """
    folder = Path(folder)
    pictures = _pictures(images)
    folder.mkdir(parents=True, exist_ok=True)
    paths = [folder / f"{i:05d}.png" for i in range(len(pictures))]
    for path, picture in zip(paths, pictures, strict=True):
        _write(picture, path)
    return paths


def save_grid(images: Tensor | Mapping[str, Tensor], path: str | Path, columns: int | None = None) -> Path:
    """Write one PNG of many images and return its path; small ones are enlarged by an integer factor (nearest).

    Args:
        images: (N, H, W, C) uint8, set in a grid; or such tensors by label, set in one labelled row each.
        path: ends with ``.png``.
        columns: images in a row of a grid; None for a nearly square grid.

    Raises:
        InputError: another suffix, images of another dtype or shape, or none.
    """
    path = Path(path)
    if path.suffix.lower() != ".png":
        raise InputError(f"{path}: a grid of images is written to a .png file")
    if isinstance(images, Tensor):
        pictures = _pictures(images)
        width = columns or math.ceil(math.sqrt(len(pictures)))
        rows = [("", pictures[start : start + width]) for start in range(0, len(pictures), width)]
    else:
        # A font measures single lines alone.
        rows = [(" ".join(label.split()), _pictures(row)) for label, row in images.items()]
    if not rows:
        raise InputError("no images to write")
    path.parent.mkdir(parents=True, exist_ok=True)
    _write(_sheet(rows), path)
    return path


def _sheet(rows: list[tuple[str, list[Image.Image]]]) -> Image.Image:
    """Rows of equal cells, each with its label on the left, vertically centred."""
    font = ImageFont.load_default(FONT_SIZE)
    sizes = [picture.size for _, row in rows for picture in row]
    widest, highest = max(w for w, _ in sizes), max(h for _, h in sizes)
    scale = max(1, math.ceil(SMALLEST_CELL / min(widest, highest)))
    cell_w, cell_h = widest * scale, highest * scale
    margin = math.ceil(max(font.getlength(label) for label, _ in rows))
    margin = margin + 3 * GAP if margin else 0
    columns = max(len(row) for _, row in rows)
    size = (margin + GAP + columns * (cell_w + GAP), GAP + len(rows) * (cell_h + GAP))
    sheet = Image.new("RGB", size, PAPER)
    draw = ImageDraw.Draw(sheet)
    for r, (label, row) in enumerate(rows):
        top = GAP + r * (cell_h + GAP)
        draw.text((2 * GAP, top + cell_h / 2), label, fill=INK, font=font, anchor="lm")
        for c, picture in enumerate(row):
            large = picture.resize((picture.width * scale, picture.height * scale), Image.Resampling.NEAREST)
            sheet.paste(large, (margin + GAP + c * (cell_w + GAP), top))
    return sheet


def _pictures(images: Tensor) -> list[Image.Image]:
    array = images.cpu().numpy()
    if array.dtype != np.uint8 or array.ndim != 4 or array.shape[-1] not in (1, 3) or not len(array):
        raise InputError(f"images are {array.dtype} {array.shape}: (N, H, W, 1 or 3) uint8 is needed")
    return [Image.fromarray(image[..., 0] if image.shape[-1] == 1 else image) for image in array]


def _write(picture: Image.Image, path: Path) -> None:
    with replacing(path) as temporary:
        picture.save(temporary, format="PNG")
