"""``tempoquant generate``."""

from pathlib import Path
from typing import Annotated

import typer

from tempoquant.cli import app
from tempoquant.cli.conditioning import Classes, Guidance, Prompts, conditioning_of
from tempoquant.cli.options import (
    COUNT,
    BatchSize,
    Engine,
    Factory,
    Folder,
    Overwrite,
    Sampler,
    Seed,
    Steps,
    console,
    open_model,
    progress,
    schedule,
)
from tempoquant.evaluation import save_grid, save_images
from tempoquant.outputs import check_new
from tempoquant.pipelines import to_images


@app.command("generate")
def generate_command(
    model: Folder,
    samples: Annotated[int, typer.Option("-n", "--samples", **COUNT, help="how many")] = 16,
    out: Annotated[Path, typer.Option("-o", "--out", help="a .png grid, or a folder of single files")] = Path(
        "grid.png"
    ),
    steps: Steps = None,
    sampler: Sampler = None,
    prompts: Prompts = None,
    classes: Classes = None,
    guidance: Guidance = None,
    seed: Seed = 0,
    batch_size: BatchSize = 16,
    denoiser: Factory = None,
    engine: Engine = "auto",
    overwrite: Overwrite = False,
) -> None:
    """Draw samples from a quantized folder or a full-precision model.

    Example: tempoquant generate out -n 16 -o grid.png
    """
    check_new(out, overwrite)
    target, quantized = open_model(model, denoiser, engine)
    options = schedule(quantized, steps, sampler)
    options["conditioning"] = conditioning_of(target, samples, prompts, classes, guidance, quantized)
    images = to_images(target.generate(samples, seed=seed, batch_size=batch_size, progress=progress(), **options))
    if out.suffix == ".png":
        save_grid(images, out)
    else:
        save_images(images, out)
    console().print(f"{out}: {samples} samples, {options['steps']} steps, seed {seed}")
