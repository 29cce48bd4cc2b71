"""Where a run keeps unfinished work, so that a crash leaves nothing that loads and the next run continues it."""

import json
import tempfile
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from importlib import metadata
from pathlib import Path
from typing import Any

from tempoquant.documents import read_json
from tempoquant.errors import FormatError, InputError, TempoquantError
from tempoquant.files import TEMPORARY, write_whole
from tempoquant.outputs import LOCK, Kind, Output, check_output, delete_files, discard, followed, new_staging
from tempoquant.recipe import Recipe

JOB = "job.json"
PARTS = ("recording", "units", "steps", "tuning", "training", "stages")
SUFFIXES = (".json", ".jsonl", ".bin", ".safetensors", ".png")
"""Folders of unfinished work, and what the files in them end with: only such are ever deleted."""


def check_job_output(out: Path, overwrite: bool) -> None:
    """Refuse an output folder that cannot be written, or whose place of unfinished work is taken.

    Raises:
        InputError: see :func:`~tempoquant.outputs.check_output`; or ``out.partial`` is somebody else's.
    """
    check_output(out, overwrite, Kind.QUANTIZED)
    _check_work(partial_of(followed(out)))


def partial_of(out: Path) -> Path:
    """The folder of unfinished work that belongs to ``out``."""
    return out.with_name(out.name + ".partial")


@contextmanager
def workplace(
    output: Output | None, recipe: Recipe, model_hash: str, *, resume: bool = False, overwrite: bool = False
) -> Iterator[Path]:
    """A folder to work in: ``out.partial``, kept on failure and removed on success, or a temporary one.

    Unfinished work of the same job is continued. A failure that the same input would repeat leaves no folder, unless
    what was done before it can be continued.

    Args:
        output: what the job writes, its lock held by the caller; None for a temporary folder.
        recipe, model_hash: the job; so are the number of threads and this package's version, which may change bits.
        resume: refuse rather than drop the work of another job.
        overwrite: drop the work of another job.

    Raises:
        InputError: the folder holds the work of another job, or somebody else's files. FormatError: it is damaged.
    """
    if output is None:
        with tempfile.TemporaryDirectory(prefix="tempoquant-") as temporary:
            yield Path(temporary)
        return
    import torch

    folder = partial_of(output.path)
    _check_work(folder)
    job = {
        "recipe": recipe.model_dump(mode="json"),
        "model": model_hash,
        "threads": torch.get_num_threads(),
        "version": metadata.version("tempoquant"),
    }
    continued = folder.exists() and _is_continued(output, job, resume, overwrite)
    if not continued:
        # Made beside its place, so that a kill leaves no folder of that name without its job.
        begun = new_staging(output.path)
        write_whole(begun / JOB, json.dumps(job, indent=2))
        begun.rename(folder)
    try:
        yield folder
    except TempoquantError:
        # Wrong input would be as wrong the next time: nothing is there to continue but a training's checkpoint.
        if not continued and not any(folder.glob("*/state.json")):
            _delete_work(folder, output.path)
        raise
    _delete_work(folder, output.path)


def _is_continued(output: Output, job: Mapping[str, Any], resume: bool, overwrite: bool) -> bool:
    """Whether the unfinished work of ``output`` is of ``job``; another job's is deleted if that was asked for."""
    from tempoquant.arguments import flattened

    folder = partial_of(output.path)
    drop = overwrite and not resume
    try:
        found = flattened(read_json(folder / JOB, "is damaged (begin again with --overwrite)"))
    except FormatError:
        if not drop:
            raise
        found = {}
    for key, value in flattened(job).items():
        if found.get(key) != value:
            if drop:
                _delete_work(folder, output.path)
                return False
            raise InputError(
                f"{folder} holds unfinished work with {key} = {found.get(key)!r}, not {value!r}: "
                "continue it with the same, or drop it with --overwrite"
            )
    return True


def _check_work(folder: Path) -> None:
    """Refuse a folder that is not of unfinished work, or holds files that are no part of it."""
    if folder.exists() and not (folder.is_dir() and (folder / JOB).is_file()):
        raise InputError(f"{folder} exists and holds no unfinished work: move it, or choose another output")
    foreign = next(_foreign_files(folder), None)
    if foreign is not None:
        raise InputError(f"{foreign} is no part of unfinished work: move it, or choose another output")


def _foreign_files(folder: Path) -> Iterator[Path]:
    """Files that no job writes into its place of work."""
    for path in sorted(folder.rglob("*")):
        parts = path.relative_to(folder).parts
        passing = path.name.startswith((TEMPORARY, LOCK))
        ours = parts == (JOB,) or (parts[0] in PARTS and (path.is_dir() or path.suffix in SUFFIXES))
        if path.is_symlink() or not (ours or passing):
            yield path


def _delete_work(folder: Path, out: Path) -> None:
    """Delete unfinished work; files that are no part of it stay, and are named."""
    foreign = set(_foreign_files(folder))
    if foreign:
        warnings.warn(f"{min(foreign)} is no part of unfinished work: {folder} stays", stacklevel=2)
        delete_files(folder, lambda path: path not in foreign)
        return
    # Under its name all of it is there or nothing, whenever a kill comes.
    left = new_staging(out)
    left.rmdir()
    folder.rename(left)
    discard(left)
