"""``tempoquant bake``."""

from pathlib import Path
from typing import Annotated

import typer

from tempoquant.checkpoint import component_of
from tempoquant.cli import app
from tempoquant.cli.options import (
    Factory,
    OutFolder,
    Overwrite,
    Sampler,
    Steps,
    check_factory,
    check_not_input,
    console,
    filling_denoiser,
    told_size,
)
from tempoquant.outputs import Kind, check_output
from tempoquant.sampling import check_sampler


@app.command("bake")
def bake_command(
    folder: Annotated[str, typer.Argument(help="a quantized folder with its interval networks (--keep-generators)")],
    out: OutFolder,
    steps: Steps = None,
    sampler: Sampler = None,
    keep_generators: Annotated[
        bool, typer.Option("--keep-generators", help="keep the interval networks in the new folder too")
    ] = False,
    denoiser: Factory = None,
    overwrite: Overwrite = False,
) -> None:
    """Write a quantized folder again, with tables for another schedule, without the networks that compute them.

    Example: tempoquant bake out --steps 100 -o out-100
    """
    check_output(out, overwrite, Kind.QUANTIZED)
    check_not_input(out, folder)
    component_of(Path(folder))
    check_factory(folder, denoiser)
    if sampler is not None:
        check_sampler(sampler)
    from tempoquant.api import load

    quantized = load(folder, denoiser=filling_denoiser(folder, denoiser), engine="simulation")
    quantized.bake(steps, sampler)
    if not keep_generators:
        quantized.drop_generators()
    size = quantized.save_pretrained(out, overwrite=overwrite)
    console().print(f"{out}: tables of {len(quantized.timesteps)} time steps, {told_size(size.to_dict())}")
