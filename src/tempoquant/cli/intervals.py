"""``tempoquant intervals``."""

from pathlib import Path
from typing import Annotated, Any

import typer

from tempoquant.cli import app
from tempoquant.cli.conditioning import Classes, Guidance, Prompts, conditioning_of
from tempoquant.cli.options import (
    COUNT,
    BatchSize,
    Json,
    Overwrite,
    Seed,
    console,
    flag_in_use,
    open_model,
    progress,
    write_json,
)
from tempoquant.diagnosis import Spreads, interval_spreads
from tempoquant.diagnosis.figures import activation_maps, interval_panels, save_picture
from tempoquant.diagnosis.figures.style import check_picture
from tempoquant.errors import InputError
from tempoquant.outputs import check_new


@app.command("intervals")
def intervals_command(
    context: typer.Context,
    folders: Annotated[list[Path], typer.Argument(help="quantized folders of one model, such as several seeds")],
    reference_model: Annotated[str, typer.Option("--reference", help="the full-precision model")],
    out: Annotated[Path, typer.Option("-o", "--out", help="figure of intervals on activations, .png or .svg")] = Path(
        "intervals.png"
    ),
    activations: Annotated[
        Path | None, typer.Option(help="also draw the distributions over the steps into this file")
    ] = None,
    layer: Annotated[
        list[str] | None,
        typer.Option("--layer", help="a pattern of layers; may be repeated; else the six that change most"),
    ] = None,
    recording: Annotated[Path | None, typer.Option(help="recorded trajectories to read; else new ones")] = None,
    samples: Annotated[int, typer.Option("-n", "--samples", **COUNT, help="trajectories to read")] = 8,
    prompts: Prompts = None,
    classes: Classes = None,
    guidance: Guidance = None,
    seed: Seed = 1,
    batch_size: BatchSize = 16,
    overwrite: Overwrite = False,
    json_file: Json = None,
) -> None:
    """Draw learned intervals on the activations they are for, over the time steps, of one or several folders.

    Example: tempoquant intervals out-0 out-1 out-2 --reference fashion32 -o intervals.png
    """
    for path in (out, activations, json_file):
        if path is not None:
            check_new(path, overwrite)
            if path is not json_file:
                check_picture(path)
    flag = None if recording is None else flag_in_use(context, "prompts", "classes", "guidance", "seed")
    if flag is not None:
        raise InputError(f"{flag} beside --recording {recording}: what it was recorded with stands")
    full, _ = open_model(reference_model)
    found = interval_spreads(
        folders,
        full,
        layers=layer or (),
        recording=recording,
        samples=samples,
        seed=seed,
        batch_size=batch_size,
        conditioning=None if recording else conditioning_of(full, samples, prompts, classes, guidance),
        progress=progress(),
    )
    save_picture(interval_panels(found.timesteps, found.layers, found.quantiles, found.intervals), out)
    if activations is not None:
        maps = activation_maps(found.timesteps, found.layers, found.edges, found.shares, found.intervals)
        save_picture(maps, activations)
    models = ", ".join(f"{len(runs)} of {name}" for name, runs in found.intervals.items())
    console().print(f"{out}: {len(found.layers)} layers at {len(found.timesteps)} steps; {models}", soft_wrap=True)
    write_json(json_file, _json(found))


def _json(found: Spreads) -> dict[str, Any]:
    return {
        "timesteps": found.timesteps.tolist(),
        "layers": list(found.layers),
        "quantiles": found.quantiles.tolist(),
        "intervals": {name: runs.tolist() for name, runs in found.intervals.items()},
    }
