"""The tables of a bench: Markdown, LaTeX and CSV from the same rows."""

import csv
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from tempoquant.bench.aggregate import Metric, Row, digits_of, metrics, rows
from tempoquant.bench.experiment import Experiment
from tempoquant.bench.paper_schedule import FEW, MORE
from tempoquant.bench.records import Record
from tempoquant.evaluation import PIXEL_RANGE
from tempoquant.files import write_whole

_LATEX = {c: f"\\{c}" for c in "&%$#_{}"} | {"~": "\\textasciitilde{}", "^": "\\textasciicircum{}"}
_LATEX |= {
    "\\": "\\textbackslash{}",
    "∞": "$\\infty$",
    "±": "$\\pm$",
    "≥": "$\\geq$",
    "–": "--",
    "<": "$<$",
    ">": "$>$",
}
NONE = "–"


@dataclass(frozen=True)
class Style:
    """How a format writes plain characters and bold text, ``{}`` standing for the text."""

    escapes: Mapping[str, str]
    bold: str

    def __call__(self, text: str, bold: bool = False) -> str:
        escaped = "".join(self.escapes.get(c, c) for c in text)
        return self.bold.replace("{}", escaped) if bold else escaped


MARKDOWN = Style({c: f"\\{c}" for c in "|*_`\\<>"}, "**{}**")
LATEX = Style(_LATEX, "\\textbf{{}}")


def write_tables(
    experiment: Experiment, model: str, records: Sequence[Record], out: Path, failures: Mapping[str, str] | None = None
) -> list[Path]:
    """Write ``table.md``, ``table.tex`` and ``table.csv`` into ``out``; nothing if there are no records.

    Args:
        experiment: whose tables they are.
        model: the quantized model's name.
        records: of its runs.
        out: the folder.
        failures: by run, the line it failed with.
    """
    if not records:
        return []
    table = Table(experiment, model, records, failures)
    texts = {"table.md": table.markdown(), "table.tex": table.latex(), "table.csv": table.csv()}
    for name, text in texts.items():
        write_whole(out / name, text)
    return [out / name for name in texts]


class Table:
    """Rows, columns and notes of an experiment's table.

    Attributes:
        groups: rows with equal bits.
        metrics: our columns.
        published: names of the columns of published numbers.
        policies: precision policies in full by their letter.
    """

    def __init__(
        self,
        experiment: Experiment,
        model: str,
        records: Sequence[Record],
        failures: Mapping[str, str] | None = None,
    ):
        self.experiment, self.model, self.records, self.failures = experiment, model, records, failures or {}
        self.groups, self.metrics = rows(experiment, records), metrics(records)
        everyone = [row for group in self.groups for row in group]
        self.published = list(dict.fromkeys(name for row in everyone for name in row.published))
        policies = list(dict.fromkeys(row.policy["full"] for row in everyone if row.policy))
        self.policies = {_letter(i): full for i, full in enumerate(policies)}

    @property
    def header(self) -> list[str]:
        """The names of all columns."""
        ours = [metric.name for metric in self.metrics]
        return ["method", "bits", *ours, "seeds", *(f"{n} (published)" for n in self.published), "engine", "policy"]

    def cells(self, row: Row, style: Style) -> list[str]:
        """A row's texts."""
        ours = [_cell(row, metric, style) for metric in self.metrics]
        theirs = [f"{row.published[n]:g}" if n in row.published else NONE for n in self.published]
        letter = next((a for a, full in self.policies.items() if full == row.policy.get("full")), None)
        policy = f"{row.policy['short']} ({letter})" if letter else NONE
        label = row.label if row.seeds else f"{row.label} (published)"
        first, last = (label, row.bits), (str(row.seeds or NONE), *theirs, row.engine or NONE, policy)
        return [*map(style, first), *ours, *map(style, last)]

    def notes(self) -> list[str]:
        """What stands below the table."""
        few = {record["machine"]["threads"] for record in self.records}
        threads = f"threads: {', '.join(map(str, sorted(few)))}; {self.records[0]['machine']['cpu']}"
        notes = [f"Failed, and not in the table: {name}: {line}" for name, line in self.failures.items()]
        notes += [f"Policy ({letter}): {full}." for letter, full in self.policies.items()]
        notes.append(
            "Mean ± sample standard deviation over seeds; the best of each column at equal bits in bold. Seconds are "
            f"those of the whole quantization, shared recording and weights included; {threads}."
        )
        notes += [
            f"PSNR and SSIM take the reference's own data range, {own:.3g}, in place of 2: its samples leave [-1, 1]."
            for own in sorted({record["paired"].get("data_range") or PIXEL_RANGE for record in self.records})
            if own != PIXEL_RANGE
        ]
        if any(metric.name == "CPU s, paper est." for metric in self.metrics):
            notes.append(
                "Paper estimates: the same at the papers' iterations for every unit, extrapolated from the time of "
                f"{MORE - FEW} of them on this machine, model and calibration."
            )
        if self.published:
            notes.append(f"Columns and rows marked published are others' numbers, not ours: {self.experiment.source}")
        return notes

    def settings(self) -> str:
        """How everything was drawn, in a line."""
        e, v = self.experiment, self.experiment.evaluation
        sampler = e.sampler or "own sampler"
        guided = "" if e.conditioning.guidance is None else f", guidance {e.conditioning.guidance:g}"
        drawn = f"{self.model}: {sampler}, {e.steps} steps, eta {e.eta:g}{guided}"
        judged = f"{v.images} paired images, predicted noise of {v.noise_samples}"
        if v.distribution is not None:
            real = v.distribution.reference
            against = "a side for distances" if real is None else f"against {real}"
            judged += f", {v.distribution.samples} samples {against}"
        return f"{drawn}; {e.calibration.samples} calibration trajectories; {judged}."

    def markdown(self) -> str:
        """GitHub's Markdown."""
        lines = [f"# {MARKDOWN(self.experiment.title or self.experiment.name)}", "", MARKDOWN(self.settings()), ""]
        lines += [_line(self.header), _line(["---"] * len(self.header))]
        lines += [_line(self.cells(row, MARKDOWN)) for group in self.groups for row in group]
        return "\n".join([*lines, *(f"\n{MARKDOWN(note)}" for note in self.notes())]) + "\n"

    def latex(self) -> str:
        """A ``table`` environment for the booktabs package."""
        body = "\\midrule\n".join("".join(_latex_line(self.cells(r, LATEX)) for r in g) for g in self.groups)
        notes = "\\\\\n".join(map(LATEX, self.notes()))
        name = LATEX(f"{self.experiment.title or self.experiment.name}. {self.settings()}")
        return (
            "% needs \\usepackage{booktabs}\n\\begin{table}\n\\centering\n"
            f"\\caption{{{name}}}\n\\begin{{tabular}}{{ll{'r' * (len(self.header) - 4)}ll}}\n\\toprule\n"
            f"{_latex_line(list(map(LATEX, self.header)))}\\midrule\n{body}\\bottomrule\n\\end{{tabular}}\n\n"
            f"\\footnotesize\n{notes}\n\\end{{table}}\n"
        )

    def csv(self) -> str:
        """One line a row, means and spreads in columns of their own, policies in full."""
        file = io.StringIO()
        writer = csv.writer(file, lineterminator="\n")
        ours = [name for metric in self.metrics for name in (metric.name, f"{metric.name} spread")]
        theirs = [f"{name} (published)" for name in self.published]
        writer.writerow(["experiment", "method", "bits", "seeds", *ours, *theirs, "engine", "policy"])
        for row in (row for group in self.groups for row in group):
            values = [row.values.get(metric.name) for metric in self.metrics]
            numbers = [n for v in values for n in (("", "") if v is None else (v.mean, v.spread))]
            published = [row.published.get(name, "") for name in self.published]
            policy = row.policy.get("full", "")
            writer.writerow(
                [self.experiment.name, row.label, row.bits, row.seeds, *numbers, *published, row.engine, policy]
            )
        return file.getvalue()


def _cell(row: Row, metric: Metric, style: Style) -> str:
    value = row.values.get(metric.name)
    if value is None:
        return style(NONE)
    mean = style(digits_of(value.mean, metric.digits), bold=metric.name in row.best)
    spread = "" if value.spread is None else f" ± {digits_of(value.spread, metric.digits)}"
    return style("≥ " if value.at_least else "") + mean + style(spread)


def _letter(i: int) -> str:
    return chr(ord("a") + i) if i < 26 else f"p{i}"


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _latex_line(cells: Sequence[str]) -> str:
    return " & ".join(cells) + " \\\\\n"
