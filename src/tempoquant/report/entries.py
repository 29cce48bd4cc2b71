"""What a report is made of: one entry a folder, with its diagnosis if there is one."""

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
        label: what the page calls it. folder: as the user named it. diagnosis: how it differs from full precision.
        evidence: what the folder says of itself now; empty for a diagnosis that stands alone.
    """

    label: str
    folder: str
    diagnosis: Diagnosis
    evidence: dict[str, Any] = field(default_factory=dict)

    @property
    def size(self) -> dict[str, Any] | None:
        """Bytes of the stored denoiser and how many times smaller that is than float32; None if not known."""
        return self.diagnosis.facts["quantized"]["size"]

    @property
    def ratio(self) -> float:
        """How many times smaller than float32; 1 if not known."""
        return float(self.size["ratio"]) if self.size else 1.0

    @property
    def speed(self) -> float:
        """How many times as fast as full precision one denoiser call was."""
        return float(self.diagnosis.facts["speed"])

    @property
    def psnr(self) -> float:
        """Mean over the images, dB."""
        return float(self.diagnosis.psnr.mean())


@dataclass(frozen=True)
class Missing:
    """A folder without a diagnosis: what it is, and the command that makes one."""

    folder: str
    name: str
    command: str


def read_entries(folders: Sequence[Path | str]) -> tuple[list[Entry], list[Missing]]:
    """The entries of these folders: quantized ones with ``diagnosis`` inside, or diagnoses themselves.

    Raises:
        InputError: there is no such folder, none has a diagnosis, or diagnoses are of different references or noise.
        FormatError: a diagnosis or a folder's evidence is damaged.
    """
    found: list[tuple[str, Diagnosis]] = []
    missing: list[Missing] = []
    for name in folders:
        folder = Path(name)
        if not folder.is_dir():
            raise InputError(f"{str(name)!r} is no folder: give quantized folders, or what `tempoquant diagnose` wrote")
        inside = next((place for place in (folder, folder / "diagnosis") if (place / DATA).is_file()), None)
        if inside is None:
            missing.append(_missing(folder))
        else:
            found.append((str(name), Diagnosis.load(inside)))
    if not found:
        raise InputError(f"{missing[0].folder} has no diagnosis to show: make one with `{missing[0].command}`")
    _check_comparable(found)
    return _labelled(found), missing


def confidence(values: Tensor, *key: object) -> tuple[float, float]:
    """A 95 % interval of the mean of ``values`` (N,): percentiles of 2000 resamples drawn with replacement."""
    picks = torch.randint(len(values), (RESAMPLES, len(values)), generator=rng("bootstrap", *key))
    low, high = torch.quantile(values.double()[picks].mean(1), torch.tensor([0.025, 0.975], dtype=torch.float64))
    return float(low), float(high)


def _missing(folder: Path) -> Missing:
    facts = _evidence(folder)
    reference = facts.get("model", "FULL")
    name = folder.name if facts else f"{folder.name} (no tempoquant.json: its origin is not known)"
    return Missing(str(folder), name, f"tempoquant diagnose {folder} --reference {reference}")


def _evidence(folder: Path) -> dict[str, Any]:
    """What is kept now: folders may be evaluated after they are diagnosed."""
    found = read_evidence(folder) if (folder / EVIDENCE).is_file() else {}
    check_evidence(found, str(folder / EVIDENCE))
    return found


def _check_comparable(found: Sequence[tuple[str, Diagnosis]]) -> None:
    first, base = found[0]
    for name, diagnosis in found[1:]:
        for key in ("reference", "schedule", "samples"):
            here, there = diagnosis.facts[key], base.facts[key]
            if here != there:
                raise InputError(
                    f"{name} and {first} cannot stand on one page: their {key} differs ({_short(here)} and "
                    f"{_short(there)}); diagnose them alike"
                )
        for key in ("timesteps", "images", "frames"):
            here, there = getattr(diagnosis, key), getattr(base, key)
            if here.shape != there.shape:
                sizes = f"{tuple(here.shape)} and {tuple(there.shape)}"
                raise InputError(f"{name} and {first} cannot stand on one page: their {key} are {sizes}")


def _short(value: Any) -> str:
    return ", ".join(f"{k} {v}" for k, v in value.items()) if isinstance(value, dict) else str(value)


def _labelled(found: Sequence[tuple[str, Diagnosis]]) -> list[Entry]:
    """Entries called by their recipe, and by their folder too where two have the same."""
    names = Counter(diagnosis.name for _, diagnosis in found)
    labels = [d.name if names[d.name] == 1 else f"{d.name} ({folder})" for folder, d in found]
    return [Entry(label, folder, d, _evidence(Path(folder))) for label, (folder, d) in zip(labels, found, strict=True)]
