"""``tempoquant evaluate``."""

from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from rich.table import Table

from tempoquant.cli import app
from tempoquant.cli.conditioning import Classes, Guidance, Prompts, conditioning_of
from tempoquant.cli.options import (
    BatchSize,
    Engine,
    Factory,
    Folder,
    Json,
    Overwrite,
    Sampler,
    Seed,
    Steps,
    check_new,
    console,
    open_model,
    progress,
    schedule,
    write_json,
)
from tempoquant.errors import InputError
from tempoquant.evaluation import EXTRACTORS, compare, feature_extractor, frechet_distance, reference
from tempoquant.pipelines import Target, to_images


@app.command("evaluate")
def evaluate_command(
    model: Folder,
    reference_model: Annotated[str, typer.Option("--reference", help="the full-precision model")],
    samples: Annotated[int, typer.Option("-n", "--samples", help="paired images")] = 16,
    noise_samples: Annotated[int, typer.Option(help="trajectories whose predicted noise is compared")] = 8,
    features: Annotated[str | None, typer.Option(help=f"also a Frechet distance: {', '.join(EXTRACTORS)}")] = None,
    distribution_samples: Annotated[int, typer.Option(help="images for the Frechet distance")] = 512,
    steps: Steps = None,
    sampler: Sampler = None,
    prompts: Prompts = None,
    classes: Classes = None,
    guidance: Guidance = None,
    seed: Seed = 1,
    batch_size: BatchSize = 16,
    denoiser: Factory = None,
    engine: Engine = "auto",
    overwrite: Overwrite = False,
    json_file: Json = None,
) -> None:
    """Compare a quantized folder with full precision, image by image from the same noise.

    Example: tempoquant evaluate out --reference fashion32 --json m.json
    """
    if samples < 1:
        raise InputError(f"samples = {samples}: at least 1")
    if json_file is not None:
        check_new(json_file, overwrite)
    extractor = None if features is None else feature_extractor(features)
    # A bare denoiser's folder is filled with the reference's own module unless the user says otherwise.
    factory = reference_model if ".py:" in reference_model and (Path(model) / "denoiser").is_dir() else None
    quantized_target, quantized = open_model(model, denoiser or factory, engine)
    if quantized is None:
        raise InputError(f"{model!r} is not a quantized folder: make one with `tempoquant quantize`")
    full, _ = open_model(reference_model)
    options = schedule(quantized, steps, sampler)
    given = (prompts, classes, guidance, quantized)
    truth = reference(
        full,
        projections=quantized.blueprint.projections,
        samples=samples,
        noise_samples=min(noise_samples, samples),
        seed=seed,
        batch_size=batch_size,
        conditioning=conditioning_of(full, samples, *given),
        progress=progress(),
        **options,
    )
    result: dict[str, Any] = compare(truth, quantized_target, progress=progress()).to_dict()
    result = {"model": model, "reference": reference_model, "recipe": quantized.recipe.name, "seed": seed} | result
    result |= {"samples": samples, "steps": options["steps"], "size": quantized.facts.get("size")}
    if extractor is not None:
        options["conditioning"] = conditioning_of(full, distribution_samples, *given)
        real, drawn = (_drawn(t, distribution_samples, seed, options) for t in (full, quantized_target))
        result["distribution"] = frechet_distance(real, drawn, extractor, progress=progress()).to_dict()
    console().print(_table(result))
    write_json(json_file, result)


def _drawn(target: Target, samples: int, seed: int, options: dict[str, Any]) -> torch.Tensor:
    """Samples for a distribution, uint8 (N, C, H, W): other noise than the paired ones."""
    images = target.generate(
        range(100_000, 100_000 + samples), seed=seed, batch_size=64, progress=progress(), **options
    )
    return to_images(images).permute(0, 3, 1, 2)


def _table(result: dict[str, Any]) -> Table:
    table = Table("metric", "value", "what it says", box=None, title=f"{result['recipe']} against full precision")
    rows = [
        ("PSNR", f"{result['psnr']['mean']:.2f} dB", f"images from the same noise, {result['samples']} samples"),
        ("SSIM", f"{result['ssim']['mean']:.4f}", "likewise, structure"),
        ("SQNR", f"{result['sqnr']['db']:.2f} dB", "predicted noise on the full-precision trajectory"),
        (
            "temporal cosine",
            f"{result['cosine']['mean']:.6f}",
            f"temporal features; least {result['cosine']['min']:.6f}",
        ),
    ]
    if result["temporal_mismatch"] is not None:
        share = f"{100 * result['temporal_mismatch']:.1f} %"
        rows.append(("temporal mismatch", share, "features nearest to another time step's"))
    if "distribution" in result:
        found = result["distribution"]
        rows.append((found["name"], f"{found['value']:.3f}", f"{found['generated']} images on each side"))
    for row in rows:
        table.add_row(*row)
    return table
