"""``tempoquant evaluate``."""

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from tempoquant.checkpoint import EVIDENCE, is_quantized
from tempoquant.cli import app
from tempoquant.cli import distribution as many
from tempoquant.cli.conditioning import Classes, ConditioningFlags, Guidance, Prompts, conditioning_of
from tempoquant.cli.options import (
    COUNT,
    BatchSize,
    Engine,
    Factory,
    Json,
    Overwrite,
    Plugins,
    QuantizedFolder,
    ReferenceModel,
    Sampler,
    Seed,
    Steps,
    check_json,
    check_model,
    check_overwrite,
    console,
    factory_for,
    flag_in_use,
    open_model,
    progress,
    schedule,
    write_json,
)
from tempoquant.errors import InputError
from tempoquant.evaluation import parse_requirements
from tempoquant.plugins import load_plugins
from tempoquant.sampling import check_sampler

if TYPE_CHECKING:
    from rich.table import Table

    from tempoquant.evaluation import Outcome, Requirement
    from tempoquant.pipelines import Model
    from tempoquant.quantized import QuantizedPipeline


@app.command("evaluate")
def evaluate_command(
    context: typer.Context,
    model: QuantizedFolder,
    reference_model: ReferenceModel,
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
    plugin: Plugins = None,
    engine: Engine = "auto",
    overwrite: Overwrite = False,
    json_file: Json = None,
) -> None:
    """Compare a quantized folder with full precision: image by image from the same noise, and as sets of images.

    Example: tempoquant evaluate out --reference fashion32 --metrics fd,is --extractor fashion32-cnn --json m.json
    """
    load_plugins(plugin or ())
    check_overwrite(overwrite, json=json_file)
    check_json(json_file, overwrite)
    flags = many.DistributionFlags(metrics, extractor, extractor_weights, reference_images, clip, statistics_cache)
    many.check_flags(context, flags)
    wanted = _requirements(require, flags.keys, model)
    if noise_samples > samples and flag_in_use(context, "noise_samples"):
        raise InputError(f"--noise-samples {noise_samples} is out of range: 1 to {samples}, the samples")
    if sampler is not None:
        check_sampler(sampler)
    factory = factory_for(model, reference_model, denoiser)
    _check_models(model, reference_model, factory, engine)
    conditioning = ConditioningFlags(prompts, classes, guidance)
    from tempoquant.checkpoint import add_evidence
    from tempoquant.evaluation import check_measured, check_sampled, judge

    plan = many.plan_of(flags)
    full, quantized = _opened(model, reference_model, factory, engine)
    check_measured(wanted, full.pixel_shape)
    run = {**schedule(quantized, steps, sampler), "seed": seed, "batch_size": batch_size}
    larger = None if plan is None else conditioning_of(full, distribution_samples, conditioning, quantized)
    if plan is not None:
        check_sampled(plan, full, distribution_samples, larger)
    result: dict[str, Any] = {"model": model, "reference": reference_model, "recipe": quantized.recipe.name}
    result |= {"seed": seed, "samples": samples, "steps": run["steps"], "size": quantized.facts.get("size")}
    paired = {**run, "conditioning": conditioning_of(full, samples, conditioning, quantized)}
    result |= _paired(full, quantized, samples, min(noise_samples, samples), paired)
    if plan is not None:
        pair = (full, quantized.model)
        result["distribution"] = many.measure(plan, *pair, distribution_samples, conditioning=larger, **run)
    outcomes = judge(wanted, result)
    if outcomes:
        result["requirements"] = [outcome.to_dict() for outcome in outcomes]
        add_evidence(Path(model), "evaluation", result)
    _show(result, full.pixel_shape)
    write_json(json_file, result)
    _report_outcomes(outcomes)


def _requirements(text: str | None, metrics: list[str], model: str) -> "list[Requirement]":
    """What ``--require`` asks for; InputError if the folder has no file to keep the outcome in."""
    wanted = [] if text is None else parse_requirements(text, metrics)
    if wanted and not (Path(model) / EVIDENCE).is_file():
        raise InputError(f"{model} has no {EVIDENCE} to keep the outcome of --require in")
    return wanted


def _check_models(model: str, reference_model: str, factory: str | None, engine: str) -> None:
    """Refuse what :func:`_opened` cannot open, as far as that is seen without loading anything."""
    check_model(model, factory, engine)
    if not is_quantized(Path(model)):
        raise InputError(f"{model!r} is not a quantized folder: make one with `tempoquant quantize`")
    check_model(reference_model)


def _opened(model: str, reference_model: str, factory: str | None, engine: str) -> "tuple[Model, QuantizedPipeline]":
    """The full-precision model, and the quantized one."""
    _, quantized = open_model(model, factory, engine)
    assert quantized is not None
    full, _ = open_model(reference_model)
    if tuple(full.pixel_shape) != tuple(quantized.model.pixel_shape):
        shapes = f"{tuple(quantized.model.pixel_shape)} in {model} and {tuple(full.pixel_shape)} in {reference_model}"
        raise InputError(f"samples are {shapes}: models of equal shapes are needed")
    return full, quantized


def _paired(
    full: "Model", quantized: "QuantizedPipeline", samples: int, noise_samples: int, run: dict[str, Any]
) -> dict[str, Any]:
    """What the same noise becomes in both, as JSON data."""
    from tempoquant.evaluation import compare, reference

    truth = reference(
        full,
        projections=quantized.blueprint.projections,
        samples=samples,
        noise_samples=noise_samples,
        progress=progress(),
        **run,
    )
    return compare(truth, quantized.model, progress=progress()).to_dict()


def _report_outcomes(outcomes: "list[Outcome]") -> None:
    """Say what became of the requirements; exit code 1 if one is missed."""
    for outcome in outcomes:
        verdict = "met" if outcome.met else f"missed by {outcome.by:.6g}"
        console().print(f"requirement {outcome.text}: {verdict} ({outcome.value:.6g})", markup=False)
    if not all(outcome.met for outcome in outcomes):
        raise typer.Exit(1)


def _show(result: dict[str, Any], shape: tuple[int, ...]) -> None:
    """Print the result's table, and which metrics samples of this shape, without the batch, do not have."""
    from tempoquant.evaluation import undefined_metrics, why_undefined

    console().print(_table(result))
    if undefined_metrics(shape):
        console().print(why_undefined(shape), soft_wrap=True)


def _table(result: dict[str, Any]) -> "Table":
    from rich.table import Table

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
    from tempoquant.evaluation import PIXEL_RANGE

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
