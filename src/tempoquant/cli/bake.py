"""``tempoquant bake``."""

from pathlib import Path
from typing import Annotated

import typer

from tempoquant.api import load
from tempoquant.cli import app
from tempoquant.cli.options import Factory, Overwrite, Sampler, Steps, console, filling_denoiser, told_size
from tempoquant.outputs import Kind, check_output


@app.command("bake")
def bake_command(
    folder: Annotated[str, typer.Argument(help="a folder made with --keep-generators")],
    out: Annotated[Path, typer.Option("-o", "--out", help="folder to write")],
    steps: Steps = None,
    sampler: Sampler = None,
    keep_generators: Annotated[
        bool, typer.Option("--keep-generators", help="keep the interval networks in the new folder too")
    ] = False,
    denoiser: Factory = None,
    overwrite: Overwrite = False,
) -> None:
    """Write a quantized folder again, its tables made for another schedule, without the networks that made them.

    Example: tempoquant bake out --steps 100 -o out-100
    """
    check_output(out, overwrite, Kind.QUANTIZED)
    quantized = load(folder, denoiser=filling_denoiser(folder, denoiser), engine="simulation")
    quantized.bake(steps, sampler)
    if not keep_generators:
        quantized.drop_generators()
    size = quantized.save_pretrained(out, overwrite=overwrite)
    console().print(f"{out}: tables of {len(quantized.timesteps)} time steps, {told_size(size.to_dict())}")
