"""Which of several models to use, in words for everybody."""

import math
from collections.abc import Sequence

from tempoquant.report.entries import Entry

LEVELS = (
    (35.0, "practically the same pictures"),
    (28.0, "nearly the same pictures"),
    (22.0, "similar pictures with visible differences"),
    (-math.inf, "different pictures"),
)
GOOD = 28.0
ALIKE = 0.98
"""Sizes within 2 % count as equal."""


def level(psnr: float) -> str:
    """What a PSNR in dB means for the pictures."""
    return next(words for least, words in LEVELS if psnr >= least)


def chosen(entries: Sequence[Entry]) -> Entry:
    """The smallest model that draws nearly the same pictures, of equally small ones the nearest; else the nearest."""
    good = [entry for entry in entries if entry.psnr >= GOOD]
    if not good:
        return max(entries, key=lambda entry: entry.psnr)
    smallest = max(entry.ratio for entry in good)
    return max((e for e in good if e.ratio >= ALIKE * smallest), key=lambda entry: entry.psnr)


def verdict(entries: Sequence[Entry]) -> str:
    """One line: which to use and why."""
    best = chosen(entries)
    images = f"{_decibels(best.psnr)} on {len(best.diagnosis.psnr)} images"
    smaller = f"is {best.ratio:.1f} times smaller than full precision and " if best.size else ""
    if best.psnr < GOOD:
        all_of_them, which = ("any of these", "the best of them, ") if len(entries) > 1 else ("this", "")
        return f"Do not use {all_of_them}: {which}{best.label}, {smaller}draws {level(best.psnr)} ({images})."
    text = f"Use {best.label}: it {smaller}draws {level(best.psnr)} ({images})."
    worse = [entry for entry in entries if entry is not best]
    return " ".join([text, *(f"{entry.label} {_beside(entry, best)}." for entry in worse)])


def _beside(entry: Entry, best: Entry) -> str:
    """What sets ``entry`` apart from the model to use."""
    if entry.ratio < ALIKE * best.ratio:
        size = "is larger"
    else:
        size = "is as small" if best.ratio >= ALIKE * entry.ratio else "is smaller"
    link = "but" if (size != "is larger") == (entry.psnr < best.psnr) else "and"
    return f"{size} {link} draws {level(entry.psnr)} ({_decibels(entry.psnr)})"


def _decibels(psnr: float) -> str:
    return f"PSNR {psnr:.1f} dB" if math.isfinite(psnr) else "equal to the last bit"
