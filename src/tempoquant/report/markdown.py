"""A report as Markdown for a model card, with its images in a folder beside it."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
import yaml

from tempoquant.diagnosis.figures import save_figure
from tempoquant.evaluation import save_grid
from tempoquant.files import write_whole
from tempoquant.outputs import Kind, pictures_of, writing
from tempoquant.report.entries import Entry, Missing
from tempoquant.report.page import MOST_IMAGES, TITLE, findings
from tempoquant.report.pictures import GAIN, difference
from tempoquant.report.plain_text import address, code, code_block, escaped
from tempoquant.report.plots import Plot, model_plots, shared_plots
from tempoquant.report.reproduce import PROMPTS, commands, prompts
from tempoquant.report.tables import GLOSSARY, notes, stored_metrics, table
from tempoquant.report.verdict import others, verdict


@dataclass(frozen=True)
class Pictures:
    """The folder of a page's images.

    Attributes:
        folder: that they are written to.
        name: of the folder in links.
    """

    folder: Path
    name: str


def write_markdown(
    path: Path, entries: Sequence[Entry], missing: Sequence[Missing], command: str, *, overwrite: bool = False
) -> Path:
    """Write the page and the folder ``<name>_files`` of its images, and return ``path``.

    Args:
        path: of the ``.md`` file.
        entries: models of the report.
        missing: folders without a diagnosis.
        command: that writes this report again.
        overwrite: replace the folder of images.
    """
    with writing(pictures_of(path), Kind.PICTURES, overwrite=overwrite) as output, output.staging() as folder:
        lines = _lines(entries, missing, Pictures(folder, pictures_of(path).name))
    write_whole(path, "\n".join([*lines, "This page:", "", *code_block(command), ""]))
    return path


def _lines(entries: Sequence[Entry], missing: Sequence[Missing], files: Pictures) -> list[str]:
    """The page, its pictures written."""
    sentences = [*others(entries), *notes(entries)]
    lines = [f"# {TITLE}", "", f"**{escaped(verdict(entries))}**", "", *_items(sentences), ""]
    lines += [
        *_table(entries),
        *_stored_metrics(entries),
        "",
        *(f"- *{name}*: {words}" for name, words in GLOSSARY.items()),
        "",
    ]
    lines += [f"{escaped(m.name)} has no diagnosis yet. Make one: {code(m.command)}\n" for m in missing]
    lines += _grid(
        _rows(entries), "samples", f"Pictures from the same noise, differences {GAIN} times amplified", files
    )
    lines += _grid(_film(entries), "steps", "The first picture on its way from noise", files)
    for plot in shared_plots(entries):
        lines += _figure(plot, files, "shared")
    for number, entry in enumerate(entries):
        lines += _model(entry, number, files)
    return lines


def _table(entries: Sequence[Entry]) -> Iterator[str]:
    models = table(entries)
    yield from _header(models["columns"])
    for row in models["rows"]:
        first, *rest = map(escaped, row["cells"])
        yield _cells([f"**{first}**" if row["mark"] else first, *rest])


def _stored_metrics(entries: Sequence[Entry]) -> Iterator[str]:
    metrics = stored_metrics(entries)
    if metrics:
        yield ""
        yield from _header(["model", "metric or requirement", "value", "note"])
    for line in metrics:
        yield _cells([escaped(line[name]) for name in ("model", "name", "value", "note")])


def _header(columns: Sequence[str]) -> Iterator[str]:
    yield _cells([escaped(column) for column in columns])
    yield _cells(["---"] * len(columns))


def _cells(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _items(lines: Sequence[str]) -> list[str]:
    return [f"- {escaped(line)}" for line in lines]


def _rows(entries: Sequence[Entry]) -> dict[str, torch.Tensor]:
    full = _grey_or_colour(entries[0].diagnosis.full_images[:MOST_IMAGES])
    rows = {"the original": full}
    for entry in entries:
        images = _grey_or_colour(entry.diagnosis.images[:MOST_IMAGES])
        rows |= {entry.label: images, f"{entry.label}, difference": difference(full, images)}
    return rows


def _film(entries: Sequence[Entry]) -> dict[str, torch.Tensor]:
    """The first sample at some steps, a row a model."""
    first = entries[0].diagnosis
    steps = torch.linspace(0, len(first.frame_steps) - 1, min(MOST_IMAGES, len(first.frame_steps))).round().long()
    rows = {"the original": _grey_or_colour(first.full_frames[steps, 0])}
    return rows | {entry.label: _grey_or_colour(entry.diagnosis.frames[steps, 0]) for entry in entries}


def _grid(rows: dict[str, torch.Tensor], name: str, title: str, files: Pictures) -> list[str]:
    save_grid(rows, files.folder / f"{name}.png")
    return [f"{title}:", "", _picture(name, files.name, title), ""]


def _grey_or_colour(images: torch.Tensor) -> torch.Tensor:
    return images[..., :3] if images.shape[-1] >= 3 else images[..., :1]


def _model(entry: Entry, number: int, files: Pictures) -> list[str]:
    lines = [f"## {escaped(entry.label)}", "", *_items(findings(entry)), ""]
    for plot in model_plots(entry):
        lines += _figure(plot, files, f"model{number}")
    lines += _block("Keep in higher precision (`--policy`):", {"policy": list(entry.diagnosis.policy)})
    lines += ["To make it again:", "", *code_block("\n".join(commands(entry))), ""]
    prompt_lines = prompts(entry)
    lines += [f"`{PROMPTS}`:", "", *code_block("\n".join(prompt_lines)), ""] if prompt_lines else []
    recipe = entry.diagnosis.facts["quantized"]["recipe"]
    return lines + (_block("`recipe.yaml`:", recipe) if recipe else [])


def _block(title: str, data: dict) -> list[str]:
    return [title, "", *code_block(yaml.safe_dump(data, sort_keys=False), "yaml"), ""]


def _figure(plot: Plot, files: Pictures, place: str) -> list[str]:
    name = f"{place}-{plot.name}"
    save_figure(plot.figure, files.folder / name)
    return [_picture(name, files.name, plot.figure.axes[0].get_title()), "", escaped(plot.words), ""]


def _picture(name: str, folder: str, words: str) -> str:
    return f"![{escaped(words)}]({address(folder, name)}.png)"
