"""``tempoquant generate``."""

from pathlib import Path
from typing import Annotated

import typer

from tempoquant.cli import app
from tempoquant.cli.conditioning import Classes, ConditioningFlags, Guidance, Prompts, conditioning_of
from tempoquant.cli.options import (
    COUNT,
    BatchSize,
    Engine,
    Factory,
    Folder,
    Overwrite,
    Plugins,
    Sampler,
    Seed,
    Steps,
    check_model,
    console,
    open_model,
    progress,
    schedule,
)
from tempoquant.outputs import check_samples_output
from tempoquant.plugins import load_plugins
from tempoquant.sampling import check_sampler


@app.command("generate")
def generate_command(
    model: Folder,
    samples: Annotated[int, typer.Option("-n", "--samples", **COUNT, help="how many")] = 16,
    out: Annotated[Path, typer.Option("-o", "--out", help="a .png grid, a folder of images, or a .npy array")] = Path(
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
    plugin: Plugins = None,
    engine: Engine = "auto",
    overwrite: Overwrite = False,
) -> None:
    """Draw samples from a quantized folder or a full-precision model.

    Example: tempoquant generate out -n 16 -o grid.png
    """
    load_plugins(plugin or ())
    check_samples_output(out, overwrite)
    check_model(model, denoiser, engine)
    if sampler is not None:
        check_sampler(sampler)
    flags = ConditioningFlags(prompts, classes, guidance)
    from tempoquant.evaluation import check_fit, save_samples

    target, quantized = open_model(model, denoiser, engine)
    check_fit(out, target.name, target.pixel_shape)
    options = schedule(quantized, steps, sampler)
    options["conditioning"] = conditioning_of(target, samples, flags, quantized)
    drawn = target.generate(samples, seed=seed, batch_size=batch_size, progress=progress(), **options)
    save_samples(drawn, out, overwrite=overwrite)
    console().print(f"{out}: {samples} samples, {options['steps']} steps, seed {seed}")
