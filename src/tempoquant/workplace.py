"""Where a run keeps unfinished work, so that a crash leaves nothing that loads and a later run can continue."""

import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from tempoquant.errors import FormatError, InputError, TempoquantError
from tempoquant.files import write_whole
from tempoquant.recipe import Recipe


def check_output(out: Path, overwrite: bool, resume: bool = False) -> None:
    """Refuse an output that exists, or unfinished work that nobody asked to continue.

    Raises:
        InputError: ``out`` or ``out.partial`` exists and neither flag covers it, or ``out`` is something else's folder.
    """
    if out.exists() and not overwrite:
        raise InputError(f"{out} exists: choose another folder or pass --overwrite")
    if out.exists() and not _is_ours(out):
        raise InputError(f"{out} exists and is no quantized folder: only such a one is overwritten")
    if partial_of(out).exists() and not (resume or overwrite):
        raise InputError(
            f"{partial_of(out)} holds unfinished work: continue it with --resume or drop it with --overwrite"
        )
    if not out.absolute().parent.is_dir():
        raise InputError(f"{out.absolute().parent} is no folder to write {out.name} into")


def partial_of(out: Path) -> Path:
    """The folder of unfinished work that belongs to ``out``."""
    return out.with_name(out.name + ".partial")


@contextmanager
def workplace(out: Path | None, recipe: Recipe, model_hash: str, resume: bool) -> Iterator[Path]:
    """A folder to work in: ``out.partial``, kept on failure and removed on success, or a temporary one.

    A failure that the same input would repeat leaves no folder, unless what was done before it can be gone on from.

    Raises:
        InputError: resuming work of another recipe, model or thread count.
    """
    if out is None:
        with tempfile.TemporaryDirectory(prefix="tempoquant-") as temporary:
            yield Path(temporary)
        return
    folder = partial_of(out)
    job = {"recipe": recipe.model_dump(mode="json"), "model": model_hash, "threads": torch.get_num_threads()}
    if folder.exists() and not resume:
        shutil.rmtree(folder)
    begun = folder.exists()
    folder.mkdir(exist_ok=True)
    marker = folder / "job.json"
    if marker.exists():
        _same_job(_begun_job(marker), job, folder)
    else:
        write_whole(marker, json.dumps(job, indent=2))
    try:
        yield folder
    except TempoquantError:
        # Wrong input would be as wrong the next time: nothing is there to continue but a training's checkpoint.
        if not begun and not any(folder.glob("*/state.json")):
            shutil.rmtree(folder)
        raise
    shutil.rmtree(folder)


def publish(folder: Path, out: Path) -> None:
    """Move a finished folder to its place, replacing what is there."""
    old = out.with_name(out.name + ".old")
    if out.exists():
        if old.exists():
            shutil.rmtree(old)
        os.replace(out, old)
    os.replace(folder, out)
    shutil.rmtree(old, ignore_errors=True)


def _is_ours(out: Path) -> bool:
    """Whether a quantized folder, or nothing but an empty one, lies there."""
    if not out.is_dir():
        return False
    configs = [path for path in out.glob("*/config.json") if b"quantization_config" in path.read_bytes()]
    return bool(configs) or not any(out.iterdir())


def _begun_job(marker: Path) -> dict:
    try:
        job = json.loads(marker.read_text())
    except ValueError:
        job = None
    if not isinstance(job, dict):
        raise FormatError(f"{marker} is damaged: begin again with --overwrite")
    return job


def _same_job(found: dict, wanted: dict, folder: Path) -> None:
    for key, value in _flat(wanted).items():
        if _flat(found).get(key) != value:
            was = _flat(found).get(key)
            raise InputError(
                f"{folder} was begun with {key} = {was!r}, not {value!r}: resume with the same, or --overwrite"
            )


def _flat(data: dict, prefix: str = "") -> dict:
    flat: dict[str, Any] = {}
    for key, value in data.items():
        flat |= _flat(value, f"{prefix}{key}.") if isinstance(value, dict) else {prefix + key: value}
    return flat
