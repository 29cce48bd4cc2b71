"""``tempoquant export``."""

from pathlib import Path
from typing import Annotated

import typer

from tempoquant.checkpoint import component_of
from tempoquant.cli import app
from tempoquant.cli.options import (
    Factory,
    Json,
    OutFolder,
    Overwrite,
    Plugins,
    QuantizedFolder,
    check_factory,
    check_json,
    check_not_input,
    console,
    filling_denoiser,
    write_json,
)
from tempoquant.exporting import TARGETS, check_target
from tempoquant.outputs import Kind, check_output
from tempoquant.plugins import load_plugins


@app.command("export")
def export_command(
    folder: QuantizedFolder,
    out: OutFolder,
    to: Annotated[str, typer.Option("--to", help=", ".join(TARGETS.names))] = "openvino",
    freeze: Annotated[
        bool,
        typer.Option(
            "--freeze-schedule/--any-schedule", help="freeze the schedule: temporal layers become a table of its steps"
        ),
    ] = True,
    whole: Annotated[
        bool, typer.Option("--whole", help="text encoders and autoencoder too: optimum-intel loads the folder")
    ] = False,
    denoiser: Factory = None,
    plugin: Plugins = None,
    overwrite: Overwrite = False,
    json_file: Json = None,
) -> None:
    """Write a quantized folder for another runtime, which `tempoquant generate` then draws from.

    Example: tempoquant export out --to openvino -o out-openvino
    """
    load_plugins(plugin or ())
    check_target(to)
    check_not_input(out, folder)
    check_output(out, overwrite, Kind.EXPORTED)
    check_json(json_file, overwrite, out)
    component_of(Path(folder))
    check_factory(folder, denoiser)
    from tempoquant.api import load
    from tempoquant.exporting import export

    quantized = load(folder, denoiser=filling_denoiser(folder, denoiser), engine="simulation")
    path = export(quantized, out, to, freeze=freeze, whole=whole, overwrite=overwrite)
    size = sum(file.stat().st_size for file in (path / quantized.model.component).iterdir())
    console().print(f"{path}: {to}, denoiser {size / 1e6:.2f} MB")
    write_json(json_file, {"out": str(path), "target": to, "denoiser_bytes": size})
