"""``tempoquant evaluate``."""

from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.table import Table

from tempoquant.checkpoint import EVIDENCE, add_evidence
from tempoquant.cli import app
from tempoquant.cli import distribution as many
from tempoquant.cli.conditioning import Classes, Guidance, Prompts, conditioning_of
from tempoquant.cli.options import (
    COUNT,
    BatchSize,
    Engine,
    Factory,
    Folder,
    Json,
    Overwrite,
    Sampler,
    Seed,
    Steps,
    check_json,
    console,
    flag_in_use,
    open_model,
    progress,
    schedule,
    write_json,
)
from tempoquant.errors import InputError
from tempoquant.evaluation import (
    PIXEL_RANGE,
    Outcome,
    check_measured,
    check_sampled,
    compare,
    judge,
    parse_requirements,
    reference,
    undefined_metrics,
    why_undefined,
)
from tempoquant.pipelines import Model
from tempoquant.quantized import QuantizedPipeline


@app.command("evaluate")
def evaluate_command(
    context: typer.Context,
    model: Folder,
    reference_model: Annotated[str, typer.Option("--reference", help="the full-precision model")],
    samples: Annotated[int, typer.Option("-n", "--samples", **COUNT, help="paired images")] = 16,
    noise_samples: Annotated[int, typer.Option(**COUNT, help="trajectories whose predicted noise is compared")] = 8,
    metrics: many.Metrics = None,
    extractor: many.Extractor = None,
    extractor_weights: many.Weights = None,
    reference_images: many.RealImages = None,
    clip: many.Clip = None,
    statistics_cache: many.Cache = None,
    distribution_samples: many.Samples = 512,
    require: Annotated[
        str | None,
        typer.Option(help="bounds such as psnr>=25,temporal_cosine>=0.999, kept in the folder; exit code 1 if missed"),
    ] = None,
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
    """Compare a quantized folder with full precision: image by image from the same noise, and as sets of images.

    Example: tempoquant evaluate out --reference fashion32 --metrics fd,is --extractor fashion32-cnn --json m.json
    """
    check_json(json_file, overwrite)
    flag = flag_in_use(context, *many.OPTIONS) if metrics is None else None
    if flag is not None:
        raise InputError(f"{flag} is of use with --metrics alone, such as --metrics fd")
    plan = many.plan_of(metrics, extractor, extractor_weights, reference_images, clip, statistics_cache)
    wanted = [] if require is None else parse_requirements(require, () if plan is None else plan.metrics)
    if wanted and not (Path(model) / EVIDENCE).is_file():
        raise InputError(f"{model} has no {EVIDENCE} to keep the outcome of --require in")
    full, quantized = _opened(model, reference_model, denoiser, engine)
    shape = full.pixel_shape
    check_measured(wanted, shape)
    given = (prompts, classes, guidance, quantized)
    run = {**schedule(quantized, steps, sampler), "seed": seed, "batch_size": batch_size}
    larger = None if plan is None else conditioning_of(full, distribution_samples, *given)
    if plan is not None:
        check_sampled(plan, full, distribution_samples, larger)
    result: dict[str, Any] = {"model": model, "reference": reference_model, "recipe": quantized.recipe.name}
    result |= {"seed": seed, "samples": samples, "steps": run["steps"], "size": quantized.facts.get("size")}
    result |= _paired(
        full, quantized, samples, noise_samples, {**run, "conditioning": conditioning_of(full, samples, *given)}
    )
    if plan is not None:
        pair = (full, quantized.target)
        result["distribution"] = many.measure(plan, *pair, distribution_samples, conditioning=larger, **run)
    outcomes = judge(wanted, result)
    if outcomes:
        result["requirements"] = [outcome.to_dict() for outcome in outcomes]
        add_evidence(Path(model), "evaluation", result)
    console().print(_table(result))
    if undefined_metrics(shape):
        console().print(why_undefined(shape), soft_wrap=True)
    write_json(json_file, result)
    _report_outcomes(outcomes)


def _report_outcomes(outcomes: list[Outcome]) -> None:
    """Say what became of the requirements; exit code 1 if one is missed."""
    for outcome in outcomes:
        verdict = "met" if outcome.met else f"missed by {outcome.by:.6g}"
        console().print(f"requirement {outcome.text}: {verdict} ({outcome.value:.6g})", markup=False)
    if not all(outcome.met for outcome in outcomes):
        raise typer.Exit(1)


def _opened(model: str, reference_model: str, denoiser: str | None, engine: str) -> tuple[Model, QuantizedPipeline]:
    """The full-precision model, and the quantized one."""
    # A bare denoiser's folder is filled with the reference's own module unless the user says otherwise.
    factory = reference_model if ".py:" in reference_model and (Path(model) / "denoiser").is_dir() else None
    _, quantized = open_model(model, denoiser or factory, engine)
    if quantized is None:
        raise InputError(f"{model!r} is not a quantized folder: make one with `tempoquant quantize`")
    full, _ = open_model(reference_model)
    if tuple(full.pixel_shape) != tuple(quantized.target.pixel_shape):
        shapes = f"{tuple(quantized.target.pixel_shape)} in {model} and {tuple(full.pixel_shape)} in {reference_model}"
        raise InputError(f"samples are {shapes}: models of equal shapes are needed")
    return full, quantized


def _paired(
    full: Model, quantized: QuantizedPipeline, samples: int, noise_samples: int, run: dict[str, Any]
) -> dict[str, Any]:
    """What the same noise becomes in both, as JSON data."""
    truth = reference(
        full,
        projections=quantized.blueprint.projections,
        samples=samples,
        noise_samples=min(noise_samples, samples),
        progress=progress(),
        **run,
    )
    return compare(truth, quantized.target, progress=progress()).to_dict()


def _table(result: dict[str, Any]) -> Table:
    table = Table("metric", "value", "what it says", box=None, title=f"{result['recipe']} against full precision")
    rows = [
        *_of_samples(result),
        ("SQNR", _decibels(result["sqnr"]["db"]), "predicted noise on the full-precision trajectory"),
        *_temporal(result),
    ]
    for row in [*rows, *many.table_rows(result.get("distribution", {}))]:
        table.add_row(*row)
    return table


def _of_samples(result: dict[str, Any]) -> Iterator[tuple[str, str, str]]:
    """How alike samples are: images by PSNR and SSIM, all others by their relative error."""
    same = f"from the same noise, {result['samples']} samples"
    if result["psnr"] is None:
        error = result["relative_error"]["mean"]
        yield "relative error", f"{100 * error:.2f} %", f"samples {same}; 0 is equal"
    else:
        own = "" if result["data_range"] == PIXEL_RANGE else f"; data range {result['data_range']:.3g}"
        yield "PSNR", _decibels(result["psnr"]["mean"]), f"images {same}{own}"
    if result["ssim"] is not None:
        yield "SSIM", f"{result['ssim']['mean']:.4f}", "likewise, structure"


def _temporal(result: dict[str, Any]) -> Iterator[tuple[str, str, str]]:
    """How well temporal features are kept; nothing of a model without any."""
    mean, least = (result["cosine"][name] for name in ("mean", "min"))
    if mean is not None:
        yield "temporal cosine", f"{mean:.6f}", f"temporal features; least {least:.6f}"
    if result["temporal_mismatch"] is not None:
        share = f"{100 * result['temporal_mismatch']:.1f} %"
        yield "temporal mismatch", share, "features nearest to another time step's"


def _decibels(value: float | None) -> str:
    return "equal" if value is None else f"{value:.2f} dB"
