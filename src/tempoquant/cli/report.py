"""``tempoquant report``."""

from pathlib import Path
from typing import Annotated

import typer

from tempoquant.cli import app
from tempoquant.cli.options import Overwrite, console
from tempoquant.outputs import check_report


@app.command("report")
def report_command(
    folders: Annotated[list[Path], typer.Argument(help="quantized folders that were diagnosed, or diagnoses")],
    out: Annotated[Path, typer.Option("-o", "--out", help="one .html file, or a .md file with its pictures")] = Path(
        "report.html"
    ),
    overwrite: Overwrite = False,
) -> None:
    """Show what `tempoquant diagnose` found of one or several models on one page.

    Example: tempoquant report out other -o report.html
    """
    check_report(out, overwrite)
    from tempoquant.report import write_report

    path = write_report(folders, out, overwrite=overwrite)
    console().print(f"{path}: {path.stat().st_size / 1e6:.1f} MB")
