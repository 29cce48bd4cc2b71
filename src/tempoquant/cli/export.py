"""``tempoquant export``."""

from pathlib import Path
from typing import Annotated

import typer

from tempoquant.api import load
from tempoquant.cli import app
from tempoquant.cli.options import (
    Factory,
    Overwrite,
    check_json,
    check_not_input,
    console,
    filling_denoiser,
    write_json,
)
from tempoquant.cli.options import Json as JsonFile
from tempoquant.exporting import TARGETS, export, find_target


@app.command("export")
def export_command(
    folder: Annotated[str, typer.Argument(help="a folder that `tempoquant quantize` wrote")],
    out: Annotated[Path, typer.Option("-o", "--out", help="folder to write")],
    to: Annotated[str, typer.Option("--to", help=", ".join(TARGETS))] = "openvino",
    freeze: Annotated[
        bool, typer.Option("--freeze-schedule/--any-schedule", help="temporal layers as a table of the own schedule")
    ] = True,
    whole: Annotated[
        bool, typer.Option("--whole", help="text encoders and autoencoder too: optimum-intel loads the folder")
    ] = False,
    denoiser: Factory = None,
    overwrite: Overwrite = False,
    json_file: JsonFile = None,
) -> None:
    """Write a quantized folder for another runtime, which `tempoquant generate` then draws from.

    Example: tempoquant export out --to openvino -o out-openvino
    """
    find_target(to)
    check_not_input(out, folder)
    check_json(json_file, overwrite, out)
    quantized = load(folder, denoiser=filling_denoiser(folder, denoiser), engine="simulation")
    made = export(quantized, out, to, freeze=freeze, whole=whole, overwrite=overwrite)
    size = sum(path.stat().st_size for path in (made / quantized.target.component).iterdir())
    console().print(f"{made}: {to}, denoiser {size / 1e6:.2f} MB")
    write_json(json_file, {"out": str(made), "target": to, "denoiser_bytes": size})
