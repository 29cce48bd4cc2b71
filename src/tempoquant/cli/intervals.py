"""``tempoquant intervals``."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from tempoquant.checkpoint import component_of
from tempoquant.cli import app
from tempoquant.cli.conditioning import Classes, ConditioningFlags, Guidance, Prompts, conditioning_of
from tempoquant.cli.options import (
    COUNT,
    BatchSize,
    Json,
    Layers,
    Overwrite,
    ReferenceModel,
    Seed,
    check_json,
    check_model,
    console,
    open_model,
    progress,
    refuse,
    write_json,
)
from tempoquant.outputs import check_new, check_picture

if TYPE_CHECKING:
    from tempoquant.diagnosis import ActivationIntervals


@app.command("intervals")
def intervals_command(
    context: typer.Context,
    folders: Annotated[list[Path], typer.Argument(help="quantized folders of one model, such as several seeds")],
    reference_model: ReferenceModel,
    out: Annotated[Path, typer.Option("-o", "--out", help="figure of intervals on activations, .png or .svg")] = Path(
        "intervals.png"
    ),
    activations: Annotated[
        Path | None, typer.Option(help="also draw the distributions over the steps into this file")
    ] = None,
    layer: Layers = None,
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
    for path in (out,) if activations is None else (out, activations):
        check_new(path, overwrite)
        check_picture(path)
    check_json(json_file, overwrite, out, activations)
    if recording is not None:
        why = f"beside --recording {recording}: what it was recorded with stands"
        refuse(context, ("prompts", "classes", "guidance", "seed"), why)
    for folder in folders:
        component_of(folder)
    check_model(reference_model)
    flags = ConditioningFlags(prompts, classes, guidance)
    from tempoquant.diagnosis import read_activation_intervals

    full, _ = open_model(reference_model)
    found = read_activation_intervals(
        folders,
        full,
        layers=layer or (),
        recording=recording,
        samples=samples,
        seed=seed,
        batch_size=batch_size,
        conditioning=None if recording else conditioning_of(full, samples, flags),
        progress=progress(),
    )
    _draw(found, out, activations)
    models = ", ".join(f"{len(runs)} of {name}" for name, runs in found.intervals.items())
    console().print(f"{out}: {len(found.layers)} layers at {len(found.timesteps)} steps; {models}", soft_wrap=True)
    write_json(json_file, _json(found))


def _draw(found: "ActivationIntervals", out: Path, activations: Path | None) -> None:
    """Write the figure of intervals, and of the activations' distributions if a file is given for it."""
    from tempoquant.diagnosis.figures import activation_maps, interval_panels, save_picture

    save_picture(interval_panels(found.timesteps, found.layers, found.quantiles, found.intervals), out)
    if activations is not None:
        maps = activation_maps(found.timesteps, found.layers, found.edges, found.shares, found.intervals)
        save_picture(maps, activations)


def _json(found: "ActivationIntervals") -> dict[str, Any]:
    return {
        "timesteps": found.timesteps.tolist(),
        "layers": list(found.layers),
        "quantiles": found.quantiles.tolist(),
        "intervals": {name: runs.tolist() for name, runs in found.intervals.items()},
    }
