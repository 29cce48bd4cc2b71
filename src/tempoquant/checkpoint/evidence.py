"""``tempoquant.json``: how a quantized folder was made, what was measured, and the hashes of its files."""

import hashlib
import json
import platform
import warnings
from importlib import metadata
from pathlib import Path
from typing import Any

from tempoquant.documents import read_json
from tempoquant.errors import FormatError, InputError
from tempoquant.files import write_whole
from tempoquant.outputs import MARKER

EVIDENCE = "tempoquant.json"
NO_EVIDENCE = "not a tempoquant evidence file"


def write_evidence(folder: Path, facts: dict[str, Any]) -> None:
    """Write ``facts`` with versions and the hash of every other file of ``folder``."""
    evidence = {"format_version": 1, **facts, "versions": versions(), "files": file_hashes(folder)}
    write_whole(folder / EVIDENCE, json.dumps(evidence, indent=2) + "\n")


def read_evidence(folder: Path) -> dict[str, Any]:
    """The folder's evidence, checked against its files; empty, with a warning, if there is none.

    Raises:
        FormatError: a file is missing, was added to a component's folder, or differs from its hash.
    """
    path = folder / EVIDENCE
    if not path.exists():
        warnings.warn(f"{folder} has no {EVIDENCE}: loaded unverified", stacklevel=3)
        return {}
    evidence = read_json(path, f"is {NO_EVIDENCE}")
    recorded, version = evidence.get("files"), evidence.get("format_version")
    if not isinstance(recorded, dict) or not isinstance(version, int):
        raise FormatError(f"{path} is {NO_EVIDENCE}: it needs files and a format_version")
    if version > 1:
        raise FormatError(f"{path}: format version {version} is newer than 1: upgrade tempoquant")
    outside = next((name for name in recorded if Path(name).is_absolute() or ".." in Path(name).parts), None)
    if outside is not None:
        raise FormatError(f"{path} is {NO_EVIDENCE}: it names {outside!r}, which is outside of the folder")
    for name, digest in recorded.items():
        file = folder / name
        if not file.is_file():
            raise FormatError(f"{file} is missing: the folder is incomplete")
        if file_hash(file) != digest:
            raise FormatError(f"{file} differs from its recorded hash: the folder was changed or damaged")
    for file in (f for part in {(folder / name).parent for name in recorded} - {folder} for f in part.iterdir()):
        if file.is_file() and file.name[0] != "." and file.relative_to(folder).as_posix() not in recorded:
            raise FormatError(f"{file} was added after the folder was written: remove it")
    return evidence


def add_evidence(folder: Path, key: str, value: Any) -> None:
    """Write one more entry into the folder's evidence, in the place of an earlier one of that name.

    Raises:
        InputError: the folder has no evidence.
    """
    path = folder / EVIDENCE
    if not path.is_file():
        raise InputError(f"{folder} has no {EVIDENCE} to keep the {key} in")
    evidence = read_json(path, f"is {NO_EVIDENCE}")
    write_whole(path, json.dumps(evidence | {key: value}, indent=2) + "\n")


def describe_evidence(evidence: dict[str, Any]) -> list[str]:
    """Evidence in words, line by line: origin, schedule, hashes, and the requirements that were evaluated."""
    schedule = evidence["schedule"]
    origin = "tables baked" if schedule.get("baked") else "calibrated"
    lines = [
        f"made from {evidence['model']} (state {evidence['model_hash']}), seed {evidence['seed']}",
        f"{origin} for {schedule['steps']} steps of {schedule['sampler'] or 'its own sampler'}",
        f"{len(evidence['files'])} files have their recorded hashes",
        "made with " + ", ".join(f"{name} {version}" for name, version in evidence["versions"].items()),
    ]
    evaluation = evidence.get("evaluation")
    if evaluation is None:
        return [*lines, "no evaluation is kept: make one with `tempoquant evaluate DIR --reference FULL --require ...`"]
    lines.append(
        f"evaluated against {evaluation['reference']} on {evaluation['samples']} images, seed {evaluation['seed']}"
    )
    for outcome in evaluation["requirements"]:
        value = "inf" if outcome["value"] is None else f"{outcome['value']:.6g}"
        lines.append(
            f"{outcome['text']}: {'met' if outcome['met'] else 'missed by ' + format(outcome['by'], '.6g')} ({value})"
        )
    return lines


def file_hashes(folder: Path) -> dict[str, str]:
    """blake2b of every file below ``folder`` but the evidence and the output's marker, by relative path."""
    files = sorted(p for p in folder.rglob("*") if p.is_file() and p.name not in (EVIDENCE, MARKER))
    return {p.relative_to(folder).as_posix(): file_hash(p) for p in files}


def file_hash(path: Path) -> str:
    """blake2b (16 bytes, hex) of a regular file's content: of no more than its size, since some files never end."""
    digest, left = hashlib.blake2b(digest_size=16), path.stat().st_size
    with path.open("rb") as file:
        while block := file.read(min(left, 1 << 20)):
            digest.update(block)
            left -= len(block)
    return digest.hexdigest()


def versions() -> dict[str, str]:
    """Versions of Python and of the packages that results depend on, by name."""
    packages = ("tempoquant", "torch", "diffusers", "safetensors", "numpy")
    return {name: metadata.version(name) for name in packages} | {"python": platform.python_version()}


def machine() -> dict[str, Any]:
    """Thread count and CPU capability, which results depend on; no names of the machine."""
    import torch

    return {"threads": torch.get_num_threads(), "cpu": torch.backends.cpu.get_cpu_capability()}
