"""Recommendation of one of several models, in everyday words."""

import math
from collections.abc import Sequence

from tempoquant.report.entries import Entry, confidence

LEVELS = (
    (35.0, "practically the same pictures"),
    (28.0, "nearly the same pictures"),
    (22.0, "similar pictures with visible differences"),
    (-math.inf, "different pictures"),
)
GOOD = 28.0
ALIKE = 0.95
"""Sizes within 5 % count as equal."""
FASTER = 1.1
"""Times that differ by less say nothing: timing one model is not that exact."""


def level(psnr: float) -> str:
    """A PSNR in dB as words on how similar the images are."""
    return next(words for least, words in LEVELS if psnr >= least)


def recommended(entries: Sequence[Entry]) -> Entry:
    """The smallest model with a PSNR of at least 28 dB, of equally small ones that of the greatest PSNR.

    If no model has 28 dB, the one of the greatest PSNR.
    """
    good = [entry for entry in entries if entry.psnr >= GOOD]
    if not good:
        return max(entries, key=lambda entry: entry.psnr)
    smallest = max(entry.ratio for entry in good)
    return max((e for e in good if e.ratio >= ALIKE * smallest), key=lambda entry: entry.psnr)


def verdict(entries: Sequence[Entry]) -> str:
    """The recommendation on one line, with its reasons."""
    best = recommended(entries)
    images = f"{_decibels(best.psnr)} on {len(best.diagnosis.psnr)} images"
    smaller = [f"is {best.ratio:.1f} times smaller than the original"] if best.size else []
    faster = [f"runs {best.speed:.1f} times as fast"] if best.speed >= FASTER else []
    slower = f", but takes {1 / best.speed:.1f} times as long here" if best.speed * FASTER <= 1 else ""
    why = _listed([*smaller, *faster, f"draws {level(best.psnr)}"]) + f" ({images}){slower}"
    if best.psnr < GOOD:
        if len(entries) > 1:
            return f"Do not use any of these: the best of them, {best.label}, {why}."
        return f"Do not use this: {best.label} {why}."
    return f"Use {best.label}: it {why}."


def others(entries: Sequence[Entry]) -> list[str]:
    """A sentence on each other model that compares it with the recommended one."""
    best = recommended(entries)
    return [f"{entry.label} {_beside(entry, best)}." for entry in entries if entry is not best]


def _beside(entry: Entry, best: Entry) -> str:
    if entry.ratio < ALIKE * best.ratio:
        size = "is larger"
    else:
        size = "is as small" if best.ratio >= ALIKE * entry.ratio else "is smaller"
    if size != "is smaller" and _alike(entry, best):
        count = len(entry.diagnosis.psnr)
        return f"{size} and, as far as {count} images can tell, as good ({_decibels(entry.psnr)})"
    link = "but" if (size != "is larger") == (entry.psnr < best.psnr) else "and"
    return f"{size} {link} draws {level(entry.psnr)} ({_decibels(entry.psnr)})"


def _alike(entry: Entry, best: Entry) -> bool:
    """Whether the 95 % interval of the mean difference of two models' PSNR, image by image, contains 0."""
    difference = best.diagnosis.psnr - entry.diagnosis.psnr
    if len(difference) < 2 or not bool(difference.isfinite().all()):
        return False
    low, high = confidence(difference, "paired psnr", best.label, entry.label)
    return low <= 0 <= high


def _listed(parts: Sequence[str]) -> str:
    return " and ".join([", ".join(parts[:-1])] * (len(parts) > 1) + [parts[-1]])


def _decibels(psnr: float) -> str:
    return f"PSNR {psnr:.1f} dB" if math.isfinite(psnr) else "equal to the last bit"
