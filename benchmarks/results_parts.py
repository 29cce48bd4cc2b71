"""What sections of the results page are made of."""

from collections.abc import Iterable
from statistics import mean, stdev
from typing import Any


def machine(found: dict[str, Any]) -> str:
    """The machine in words."""
    threads = found["machine"]["threads"]
    return f"{threads} thread{'s' * (threads != 1)}, {found['machine']['cpu']}"


def table(head: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    """A Markdown table."""
    lines = [list(head), *(list(row) for row in rows)]
    lines.insert(1, ["---"] * len(lines[0]))
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def spread(values: list[float]) -> str:
    """Mean and sample standard deviation."""
    return f"{mean(values):.2f}" + (f" ± {stdev(values):.2f}" if len(values) > 1 else "")
