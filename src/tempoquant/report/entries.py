"""Entries of a report: one a folder, with its diagnosis and evidence; and folders without a diagnosis."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from tempoquant.checkpoint import EVIDENCE, read_evidence
from tempoquant.diagnosis import DATA, Diagnosis
from tempoquant.errors import InputError
from tempoquant.randomness import rng
from tempoquant.report.evaluations import check_evidence

RESAMPLES = 2000


@dataclass(frozen=True)
class Entry:
    """One model of a report.

    Attributes:
        label: its name on the page.
        folder: as the user named it.
        diagnosis: how it differs from full precision.
        evidence: content of the folder's ``tempoquant.json`` now; empty for a diagnosis outside a quantized folder.
    """

    label: str
    folder: str
    diagnosis: Diagnosis
    evidence: dict[str, Any] = field(default_factory=dict)

    @property
    def size(self) -> dict[str, Any] | None:
        """``total`` bytes of the stored denoiser, and ``ratio`` of float32's to them; None if not known."""
        return self.diagnosis.facts["quantized"]["size"]

    @property
    def ratio(self) -> float:
        """Bytes of the denoiser in float32 divided by its stored bytes; 1 if not known."""
        return float(self.size["ratio"]) if self.size else 1.0

    @property
    def speed(self) -> float:
        """Time of a full-precision denoiser call divided by that of a quantized one."""
        return float(self.diagnosis.facts["speed"])

    @property
    def psnr(self) -> float:
        """Mean PSNR of the images, dB."""
        return float(self.diagnosis.psnr.mean())


@dataclass(frozen=True)
class Missing:
    """A folder without a diagnosis.

    Attributes:
        folder: as the user named it.
        name: on the page.
        command: that makes a diagnosis.
    """

    folder: str
    name: str
    command: str


def read_entries(folders: Sequence[Path | str]) -> tuple[list[Entry], list[Missing]]:
    """Read the diagnoses and the evidence of folders, and check that they can stand on one page.

    Args:
        folders: quantized ones with ``diagnosis`` inside, or diagnoses.

    Raises:
        InputError: there is no such folder, none has a diagnosis, or diagnoses are of different references or noise.
        FormatError: a diagnosis or a folder's evidence is damaged.
    """
    diagnoses: list[tuple[str, Diagnosis]] = []
    missing: list[Missing] = []
    for name in folders:
        folder = Path(name)
        if not folder.is_dir():
            raise InputError(f"{str(name)!r} is no folder: give quantized folders, or what `tempoquant diagnose` wrote")
        inside = next((place for place in (folder, folder / "diagnosis") if (place / DATA).is_file()), None)
        if inside is None:
            missing.append(_missing(folder))
        else:
            diagnoses.append((str(name), Diagnosis.load(inside)))
    if not diagnoses:
        raise InputError(f"{missing[0].folder} has no diagnosis to show: make one with `{missing[0].command}`")
    _check_comparable(diagnoses)
    return _entries(diagnoses), missing


def confidence(values: Tensor, *key: object) -> tuple[float, float]:
    """Bootstrap interval of a mean, 95 %: percentiles of 2000 resamples drawn with replacement.

    Args:
        values: (N,) of any float dtype.
        key: of the random numbers.
    """
    picks = torch.randint(len(values), (RESAMPLES, len(values)), generator=rng("bootstrap", *key))
    low, high = torch.quantile(values.double()[picks].mean(1), torch.tensor([0.025, 0.975], dtype=torch.float64))
    return float(low), float(high)


def _missing(folder: Path) -> Missing:
    facts = _evidence(folder)
    reference = facts.get("model", "FULL")
    name = folder.name if facts else f"{folder.name} (no tempoquant.json: its origin is not known)"
    return Missing(str(folder), name, f"tempoquant diagnose {folder} --reference {reference}")


def _evidence(folder: Path) -> dict[str, Any]:
    """Content of ``tempoquant.json`` now: folders may be evaluated after they are diagnosed."""
    evidence = read_evidence(folder) if (folder / EVIDENCE).is_file() else {}
    check_evidence(evidence, str(folder / EVIDENCE))
    return evidence


def _check_comparable(diagnoses: Sequence[tuple[str, Diagnosis]]) -> None:
    first, base = diagnoses[0]
    for name, diagnosis in diagnoses[1:]:
        for key in ("reference", "schedule", "samples"):
            value, expected = diagnosis.facts[key], base.facts[key]
            if value != expected:
                raise InputError(
                    f"{name} and {first} cannot stand on one page: their {key} differs ({_short(value)} and "
                    f"{_short(expected)}); diagnose them with equal options"
                )
        for key in ("timesteps", "images", "frames"):
            tensor, expected = getattr(diagnosis, key), getattr(base, key)
            if tensor.shape != expected.shape:
                sizes = f"{tuple(tensor.shape)} and {tuple(expected.shape)}"
                raise InputError(f"{name} and {first} cannot stand on one page: their {key} are {sizes}")


def _short(value: Any) -> str:
    return ", ".join(f"{k} {v}" for k, v in value.items()) if isinstance(value, dict) else str(value)


def _entries(diagnoses: Sequence[tuple[str, Diagnosis]]) -> list[Entry]:
    """Entries labelled by their recipe, and by their folder too where two have the same."""
    names = Counter(diagnosis.name for _, diagnosis in diagnoses)
    labels = [d.name if names[d.name] == 1 else f"{d.name} ({folder})" for folder, d in diagnoses]
    pairs = zip(labels, diagnoses, strict=True)
    return [Entry(label, folder, d, _evidence(Path(folder))) for label, (folder, d) in pairs]
