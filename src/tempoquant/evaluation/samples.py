"""Samples on disk: a grid of images, a folder of them, or an array of samples of any shape."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from torch import Tensor

from tempoquant.evaluation.grid import save_grid, save_images
from tempoquant.files import replacing
from tempoquant.outputs import ARRAY, GRID, Kind, writing
from tempoquant.pipelines import check_image, to_images


def check_fit(path: Path, name: str, shape: Sequence[int]) -> None:
    """Check that a model's samples can be written to ``path``: any shape to an array, only images elsewhere.

    Args:
        path: of the output, see :func:`save_samples`.
        name: of the model.
        shape: of one sample.

    Raises:
        InputError: samples are no images and ``path`` is no ``.npy`` file.
    """
    if path.suffix.lower() != ARRAY:
        check_image(name, shape, f"write them to a {ARRAY} file, such as -o samples{ARRAY}")


def save_samples(samples: Tensor, path: Path, *, overwrite: bool = False) -> None:
    """Write samples by the suffix of ``path``: .png one grid, .npy float32 (N, *sample_shape), else a folder of PNGs.

    Args:
        samples: (N, *sample_shape), as ``Model.generate`` gives them; images are clipped to [-1, 1], arrays are not.
        overwrite: replace a folder of images that was written so.
    """
    ending = path.suffix.lower()
    if ending == ARRAY:
        with replacing(path, 4 * samples.numel()) as temporary, temporary.open("wb") as file:
            np.save(file, samples.float().cpu().numpy())
    elif ending == GRID:
        save_grid(to_images(samples), path)
    else:
        with writing(path, Kind.IMAGES, overwrite=overwrite) as output, output.staging() as folder:
            save_images(to_images(samples), folder)
