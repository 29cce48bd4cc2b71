"""The tables of a report: models, and the metrics that evaluations stored in their folders."""

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch

from tempoquant.evaluation import PIXEL_RANGE
from tempoquant.report.entries import Entry, confidence
from tempoquant.report.verdict import GOOD, recommended

GLOSSARY = {
    "bits": "W4A8 has weights in 4 bits and activations, the numbers that flow through the network, in 8. The original "
    "has 32 for both.",
    "size": "of the denoiser's files, the part of a pipeline that is quantized.",
    "speed": "of one denoiser call at batch 1, on the machine that made the diagnosis: 2x takes half the time.",
    "PSNR": "how alike two pictures are, in decibels: more is better, 6 dB more is half the error. In brackets where "
    "the mean over very many pictures lies with 95 % confidence, from 2000 resamples of these.",
    "SSIM": "how alike two pictures are in structure: 1 is equal.",
    "noise SQNR": "how much stronger the network's prediction is than the error in it, in decibels, on the original's "
    "inputs.",
    "least temporal cosine": "how well the network still knows at which time step it is, where that suffers most: 1 is "
    "unchanged.",
    "disturbed features": "how many of these signals of the time step fall below a cosine of 0.9995 at some step.",
    "mismatch": "how many of them are taken for those of another time step.",
}
"""What the columns of the table of models mean."""


def table(entries: Sequence[Entry]) -> dict[str, Any]:
    """Columns and rows of the table of models, full precision first, as text."""
    facts = entries[0].diagnosis.facts
    columns = ["model", "bits", "size", "speed", f"PSNR of {facts['samples']} images (95 %)", "SSIM", "noise SQNR"]
    columns += ["least temporal cosine", "disturbed features", "mismatch"]
    full = [f"{facts['reference']['name']}, the original", "32", megabytes(facts["reference"]["bytes"]), "1x"]
    rows = [{"cells": [*full, "", "1", "", "1", "0", "0 %"], "mark": ""}]
    best = recommended(entries)
    mark = "use this" if best.psnr >= GOOD else "nearest"
    rows += [{"cells": _row(entry), "mark": mark if entry is best else ""} for entry in entries]
    return {"columns": columns, "rows": rows}


def notes(entries: Sequence[Entry]) -> list[str]:
    """Sentences on the numbers of the table: on their data range where it is not 2."""
    data_range = data_range_of(entries[0].diagnosis.facts)
    if data_range == PIXEL_RANGE:
        return []
    return [
        f"The original's samples leave [-1, 1]: PSNR and SSIM are relative to their own data range, {data_range:.3g}, "
        "and pictures are clipped. If they are to be images, give the model a scheduler with clip_sample."
    ]


def data_range_of(stored: Mapping[str, Any]) -> float:
    """Data range of PSNR and SSIM in a diagnosis's facts or an evaluation; 2 in older ones without it."""
    return float(stored.get("data_range") or PIXEL_RANGE)


def stored_metrics(entries: Sequence[Entry]) -> list[dict[str, Any]]:
    """Rows of the metrics and requirements that ``tempoquant evaluate`` stored in the folders, as text."""
    return [{"model": entry.label, **line} for entry in entries for line in _stored_metrics(entry)]


def decibels(value: float) -> str:
    """A ratio in dB as text; "equal" if it is infinite."""
    return f"{value:.1f} dB" if math.isfinite(value) else "equal"


def megabytes(count: int) -> str:
    """A number of bytes as text, in MB."""
    return f"{count / 1e6:.2f} MB"


def _stored_metrics(entry: Entry) -> Iterator[dict[str, str]]:
    stored = entry.evidence.get("evaluation", {})
    data_range = data_range_of(stored)
    relative = "" if data_range == PIXEL_RANGE else f", data range {data_range:.3g}"
    for name, unit in (("psnr", " dB"), ("ssim", "")):
        values = (stored.get(name) or {}).get("per_image", [])
        if values and None not in values:
            low, high = confidence(torch.tensor(values), name, "kept", entry.label)
            text = f"{sum(values) / len(values):.4g}{unit} ({low:.4g} to {high:.4g})"
            yield {"name": name.upper(), "value": text, "note": f"{len(values)} images{relative}"}
    for part in (stored.get("distribution") or {}).values():
        if isinstance(part, dict) and "value" in part:
            images = f"{part.get('generated')} images"
            images += f" against {part['real']}" if part.get("real") else ""
            deviation = f" ± {part['std']:.2g}" if part.get("std") else ""
            yield {"name": part["name"], "value": f"{part['value']:.4g}{deviation}", "note": images}
    for line in stored.get("requirements", []):
        words = "met" if line["met"] else f"missed by {line['by']:.4g}"
        yield {"name": line["text"], "value": _plain(line["value"]), "note": words}


def _row(entry: Entry) -> list[str]:
    d = entry.diagnosis
    size = "not known" if entry.size is None else f"{megabytes(entry.size['total'])} ({entry.ratio:.1f}x smaller)"
    ssim = float(d.ssim.mean())
    cosine = f"{float(d.feature_cosine.min()):.5f}" if d.projections else "none"
    mismatch = "none" if d.mismatch is None else f"{100 * d.mismatch:.1f} %"
    disturbed = f"{len(d.disturbed)} of {len(d.projections)}" if d.projections else "none"
    quality = [_psnr(entry), f"{ssim:.3f}" if math.isfinite(ssim) else "too small for it"]
    quality += [decibels(float(d.noise_sqnr.mean())), cosine, disturbed, mismatch]
    return [entry.label, _bits(d.facts["quantized"]["recipe"]), size, f"{entry.speed:.2f}x", *quality]


def _psnr(entry: Entry) -> str:
    if not math.isfinite(entry.psnr):
        return "equal images"
    low, high = confidence(entry.diagnosis.psnr, "psnr", entry.label)
    return f"{entry.psnr:.1f} dB ({low:.1f} to {high:.1f})"


def _bits(recipe: dict[str, Any] | None) -> str:
    return "another tool's" if recipe is None else f"W{recipe['weights']['bits']}A{recipe['activations']['bits']}"


def _plain(value: float | None) -> str:
    return "infinite" if value is None else f"{value:.4g}"
