"""A recording on disk: the denoiser's inputs at every step of every trajectory, read back by memory map.

A folder with ``manifest.json``, ``samples.<dtype>.bin`` (K, N, *sample_shape) and one raw file a conditioning tensor:
(N, branches, ...), or (1, 1, ...) of one without a batch. No pickle. N trajectories have ``branches`` rows each: two
under classifier-free guidance, whose branches share the sample and differ in their conditioning.
"""

import os
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from tempoquant.arguments import nested
from tempoquant.errors import FormatError
from tempoquant.files import storage_error
from tempoquant.recording.manifest import read_manifest
from tempoquant.sampling import Unbatched

DTYPES = ("float16", "float32")


class Store:
    """A finished recording, open for reading; nothing is loaded before it is asked for.

    Args:
        folder: written by ``record``.

    Attributes:
        timesteps: (K,) the schedule's values, as the denoiser's argument saw them, in step order.
        steps: K.
        samples: rows that can be read at every step: trajectories times branches.
        branches: rows of one trajectory.
        sample_shape: of one sample.
        model_hash: of the recorded denoiser.

    Raises:
        FormatError: there is no recording, or it is unfinished, truncated or too new.
    """

    def __init__(self, folder: str | Path):
        self.folder = Path(folder)
        self.manifest = read_manifest(self.folder)
        self.request: dict[str, Any] = self.manifest["request"]
        done, batches = self.manifest["done"], self.manifest["batches"]
        if done < batches:
            raise FormatError(
                f"{self.folder} is an unfinished recording ({done} of {batches} batches): record it again"
            )
        self.branches = int(self.manifest["branches"])
        self.samples = int(self.request["samples"]) * self.branches
        self.sample_shape = tuple(self.request["sample_shape"])
        self.model_hash = str(self.request["model"])
        self.timesteps = torch.tensor(self.manifest["timesteps"], dtype=getattr(torch, self.manifest["timestep_dtype"]))
        self.steps = len(self.timesteps)
        self._samples = open_samples(self.folder, self.request, self.steps, "r")
        self._conditioning = [open_conditioning(self.folder, entry, "r") for entry in self.manifest["conditioning"]]

    def __len__(self) -> int:
        """Denoiser inputs in the recording: steps times rows."""
        return self.steps * self.samples

    @cached_property
    def rows(self) -> Tensor:
        """(R,) the unique time steps, ascending, float32: what tables have rows for."""
        return torch.unique(self.timesteps.float())

    def read(self, steps: Tensor, indices: Tensor) -> tuple[Tensor, Tensor, dict[str, Any]]:
        """The denoiser's inputs at these steps for these rows.

        Args:
            steps: (M,) step indices, 0 the noisiest.
            indices: (M,) rows below ``samples``: row ``i`` is branch ``i % branches`` of trajectory ``i // branches``.

        Returns:
            sample (M, *sample_shape) float32, t (M,), and the denoiser's further keyword arguments, M rows each, or
            ``Unbatched``.
        """
        trajectories, branches = (indices // self.branches).numpy(), (indices % self.branches).numpy()
        sample = torch.from_numpy(self._samples[steps.numpy(), trajectories]).float()
        conditioning: dict[str, Any] = {}
        for entry, data in zip(self.manifest["conditioning"], self._conditioning, strict=True):
            batched, kind = entry.get("batched", True), getattr(torch, entry["dtype"])
            raw = torch.from_numpy(data[trajectories, branches] if batched else data[:].copy())
            value = raw.view(kind).reshape(*([len(indices)] if batched else []), *entry["shape"])
            conditioning[entry["name"]] = value if batched else Unbatched(value)
        conditioning |= {name: Unbatched(value) for name, value in self.manifest.get("constants", {}).items()}
        return sample, self.timesteps[steps], nested(conditioning)


def samples_shape(request: dict[str, Any], calls: int) -> tuple[int, ...]:
    """(K, N, *sample_shape) of the samples file."""
    return (calls, request["samples"], *request["sample_shape"])


def samples_bytes(request: dict[str, Any], calls: int) -> int:
    """Size of the samples file."""
    return int(np.prod(samples_shape(request, calls), dtype=np.int64)) * np.dtype(request["dtype"]).itemsize


def open_samples(folder: Path, request: dict[str, Any], calls: int, mode: Any) -> np.memmap:
    """Map ``samples.<dtype>.bin``; mode "w+" makes it, "r+" writes and "r" reads one that must be whole."""
    path = folder / f"samples.{request['dtype']}.bin"
    return _open(path, np.dtype(request["dtype"]), samples_shape(request, calls), mode)


def open_conditioning(folder: Path, entry: dict[str, Any], mode: Any) -> np.memmap:
    """Map one conditioning tensor as bytes (N, branches, bytes of a row): numpy knows no bfloat16."""
    return _open(folder / entry["file"], np.dtype(np.uint8), tuple(entry["stored"]), mode)


def _open(path: Path, dtype: np.dtype, shape: tuple[int, ...], mode: Any) -> np.memmap:
    size = int(np.prod(shape, dtype=np.int64)) * dtype.itemsize
    if path.is_symlink() or (path.exists() and not path.is_file()):
        raise FormatError(f"{path} is no plain file: the recording is damaged, delete its folder")
    if mode == "w+":
        _allocate(path, size)
        mode = "r+"
    if not path.is_file() or path.stat().st_size != size:
        found = path.stat().st_size if path.is_file() else 0
        raise FormatError(f"{path} holds {found} bytes, not {size}: the recording is damaged, delete its folder")
    return np.memmap(path, dtype=dtype, mode=mode, shape=shape)


def _allocate(path: Path, size: int) -> None:
    """Make a file of ``size`` bytes on the disk: a mapped file that finds it full later ends the process."""
    try:
        with path.open("wb") as file:
            if hasattr(os, "posix_fallocate") and size:
                os.posix_fallocate(file.fileno(), 0, size)
            file.truncate(size)
    except OSError as error:
        full = storage_error(error, path, size)
        path.unlink(missing_ok=True)
        raise (full or error) from error
