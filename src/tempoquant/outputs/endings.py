"""Refusing output files by their ending, before any work is done for them."""

from pathlib import Path

from tempoquant.errors import InputError
from tempoquant.outputs.check import check_new, check_output
from tempoquant.outputs.marker import Kind

GRID, ARRAY = ".png", ".npy"
REPORTS = (".html", ".md")
FIGURES = (".png", ".svg")


def check_samples_output(path: Path, overwrite: bool) -> None:
    """Raise InputError unless samples are written to files of this ending, and may be written to this one."""
    if path.suffix.lower() in (GRID, ARRAY):
        check_new(path, overwrite)
        return
    from PIL import Image

    if path.suffix.lower() in Image.registered_extensions():
        raise InputError(
            f"{path}: samples are written to a {GRID} (one grid of images), a {ARRAY} (an array) or a folder of images"
        )
    check_output(path, overwrite, Kind.IMAGES)


def check_report(path: Path, overwrite: bool) -> None:
    """Raise InputError unless a report may be written to ``path``."""
    if path.suffix not in REPORTS:
        raise InputError(f"{path}: a report is a {' or a '.join(REPORTS)} file")
    check_new(path, overwrite)
    if path.suffix == ".md":
        check_output(pictures_of(path), overwrite, Kind.PICTURES)


def pictures_of(path: Path) -> Path:
    """The folder of the pictures that a report in Markdown shows."""
    return path.with_name(f"{path.stem}_files")


def check_picture(path: Path) -> None:
    """Raise InputError unless a figure can be written to files of this ending."""
    if path.suffix not in FIGURES:
        raise InputError(f"{path} is no figure's name: it must end in {' or '.join(FIGURES)}")
