"""Write a report: one self-contained HTML file, or Markdown with PNG images beside it."""

import shlex
from collections.abc import Sequence
from pathlib import Path

from jinja2 import Environment, PackageLoader, StrictUndefined

from tempoquant.errors import InputError
from tempoquant.files import write_whole
from tempoquant.outputs import check_report
from tempoquant.report.entries import read_entries
from tempoquant.report.markdown import write_markdown
from tempoquant.report.page import page

MOST_BYTES = 10_000_000


def write_report(folders: Sequence[Path | str], out: Path | str, *, overwrite: bool = False) -> Path:
    """Write one page about all of ``folders`` and return its path.

    Args:
        folders: quantized folders with a diagnosis inside, or folders of diagnoses.
        out: ``.html``, one file that needs no network; or ``.md``, with its images in a folder beside it.
        overwrite: replace ``out``.

    Raises:
        InputError: a folder does not exist, has no diagnosis (the message says the command), or is not comparable with
            the others; or ``out`` exists, is of another kind, or would be larger than 10 MB.
    """
    path = Path(out)
    check_report(path, overwrite)
    entries, missing = read_entries(folders)
    command = shlex.join(["tempoquant", "report", *map(str, folders), "-o", str(out)])
    if path.suffix == ".md":
        return write_markdown(path, entries, missing, command, overwrite=overwrite)
    loader = PackageLoader("tempoquant.report")
    pages = Environment(loader=loader, autoescape=True, undefined=StrictUndefined, trim_blocks=True)
    text = pages.get_template("report.html").render(page(entries, missing, command))
    if len(text.encode()) > MOST_BYTES:
        raise InputError(f"a page of these {len(entries)} models would be {len(text) / 1e6:.0f} MB: give fewer folders")
    write_whole(path, text)
    return path
