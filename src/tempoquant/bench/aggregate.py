"""From records to rows: means and spreads over seeds, the best of every column, published numbers beside ours."""

import math
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from tempoquant.bench.experiment import Experiment, Published, parse_bits
from tempoquant.bench.records import Record

Read = Callable[[Record], float | None]


@dataclass(frozen=True)
class Metric:
    """A column. ``better``: 1 if more is better, -1 if less, 0 if it is no quality. ``digits`` after the point.

    ``parts``: the entry of a record whose parts are added up.
    """

    name: str
    better: int
    digits: int
    read: Read
    parts: str = ""


@dataclass(frozen=True)
class Value:
    """Mean and sample standard deviation (None of one seed) over ``seeds``; ``at_least``: a part of it is unknown."""

    mean: float
    spread: float | None
    seeds: int
    at_least: bool = False


@dataclass
class Row:
    """A method at some bits. ``seeds`` is 0 for one that only others have published; ``best``: columns to embolden."""

    label: str
    bits: str
    seeds: int = 0
    policy: dict[str, str] = field(default_factory=dict)
    engine: str = ""
    values: dict[str, Value] = field(default_factory=dict)
    published: dict[str, float] = field(default_factory=dict)
    best: set[str] = field(default_factory=set)


PAIRED = (
    Metric("PSNR dB", 1, 2, lambda r: r["paired"]["psnr"] and _or_infinite(r["paired"]["psnr"]["mean"])),
    Metric("SSIM", 1, 3, lambda r: r["paired"]["ssim"] and r["paired"]["ssim"]["mean"]),
    Metric("relative error %", -1, 2, lambda r: _of_no_images(r["paired"])),
    Metric("SQNR dB", 1, 2, lambda r: _or_infinite(r["paired"]["sqnr"]["db"])),
    Metric("temporal cosine", 1, 6, lambda r: r["paired"]["cosine"]["mean"]),
    Metric("mismatch %", -1, 1, lambda r: _times(100, r["paired"]["temporal_mismatch"])),
)


def _total(name: str) -> Read:
    """The sum of the known seconds of a record; None of one that has none of this kind."""

    def read(record: Record) -> float | None:
        stages = record.get(name)
        return None if stages is None else sum(s for s in stages.values() if s is not None)

    return read


COSTS = (
    Metric("MB", 0, 2, lambda r: r["size"] and r["size"]["total"] / 1e6),
    Metric("smaller", 0, 2, lambda r: r["size"] and r["size"]["ratio"]),
    Metric("seconds", 0, 0, _total("seconds"), "seconds"),
    Metric("CPU s", 0, 0, _total("cpu_seconds"), "cpu_seconds"),
    Metric("CPU s, paper est.", 0, 0, lambda r: _total("cpu_seconds")(r.get("paper_schedule") or {})),
)
MORE_IS_BETTER = ("IS", "precision", "recall", "CLIP")
FULL_PRECISION = "W32A32"


def metrics(records: Sequence[Record]) -> list[Metric]:
    """The columns of these records: paired metrics, distances in the order they appear, costs; those that any has."""
    names = dict.fromkeys(name for record in records for name in record["distribution"])
    distances = [Metric(n, 1 if n.startswith(MORE_IS_BETTER) else -1, 3, _distance(n)) for n in names]
    columns = [*PAIRED, *distances, *COSTS]
    return [metric for metric in columns if any(metric.read(record) is not None for record in records)]


def rows(experiment: Experiment, records: Sequence[Record]) -> list[list[Row]]:
    """Groups of rows with equal bits, from wide to narrow; rows from best to worst, those of others' numbers last."""
    columns = metrics(records)
    by_row: dict[tuple[str, str], list[Record]] = {}
    for record in records:
        by_row.setdefault((record["bits"], record["label"]), []).append(record)
    ours = [_row(same, columns) for same in by_row.values()]
    methods = {(row.label, row.bits): by_row[row.bits, row.label][0]["method"] for row in ours}
    theirs = _publish(experiment.targets, ours, methods)
    groups: dict[str, list[Row]] = {}
    for row in [*ours, *theirs]:
        groups.setdefault(row.bits, []).append(row)
    order = next((m for m in columns if m.name == experiment.sort), columns[0])
    for group in groups.values():
        group.sort(key=lambda row: _rank(row, order))
        _embolden(group, columns)
    return [groups[bits] for bits in sorted(groups, key=parse_bits, reverse=True)]


def digits_of(value: float, digits: int) -> str:
    """A number as tables print it."""
    return "∞" if math.isinf(value) else f"{value:.{digits}f}"


def _row(records: Sequence[Record], columns: Sequence[Metric]) -> Row:
    first = records[0]
    values = {}
    for metric in columns:
        measured = [value for value in map(metric.read, records) if value is not None]
        if measured:
            spread = statistics.stdev(measured) if len(measured) > 1 and all(map(math.isfinite, measured)) else None
            partial = any(None in record.get(metric.parts, {}).values() for record in records)
            values[metric.name] = Value(statistics.fmean(measured), spread, len(measured), partial)
    return Row(first["label"], first["bits"], len(records), first["policy"], first["engine"], values)


def _publish(targets: Sequence[Published], ours: Sequence[Row], methods: Mapping[tuple[str, str], str]) -> list[Row]:
    """Put published numbers beside our rows of that method and bits; rows of their own for the others."""
    theirs = []
    for target in targets:
        bits = target.bits or FULL_PRECISION
        beside = [row for row in ours if row.bits == bits and target.method in (row.label, methods[row.label, bits])]
        if not beside:
            theirs.append(Row(target.method, bits))
        for row in beside or theirs[-1:]:
            row.published |= target.metrics
    return theirs


def _rank(row: Row, order: Metric) -> tuple[bool, float]:
    value = row.values.get(order.name)
    return (value is None, 0.0 if value is None else -(order.better or -1) * value.mean)


def _embolden(group: Sequence[Row], columns: Sequence[Metric]) -> None:
    """Mark the best of ours in every column of quality, and what prints the same; of one row nothing is the best."""
    for metric in columns:
        having = [row for row in group if metric.name in row.values]
        if metric.better and len(having) > 1:
            best = max(having, key=lambda row: metric.better * row.values[metric.name].mean).values[metric.name].mean
            for row in having:
                if digits_of(row.values[metric.name].mean, metric.digits) == digits_of(best, metric.digits):
                    row.best.add(metric.name)


def _distance(name: str) -> Read:
    return lambda record: record["distribution"].get(name)


def _or_infinite(value: float | None) -> float:
    """The ratio of equal images, for which JSON has no number."""
    return math.inf if value is None else value


def _of_no_images(paired: Mapping[str, Any]) -> float | None:
    """Per cent, of samples that PSNR is no metric of."""
    return _times(100, paired["relative_error"]["mean"]) if paired["psnr"] is None else None


def _times(factor: float, value: float | None) -> float | None:
    return None if value is None else factor * value
