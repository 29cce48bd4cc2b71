"""Metrics of many images on the command line: what to measure, with what, and against which images."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from tempoquant.cli.options import COUNT, progress
from tempoquant.errors import InputError
from tempoquant.evaluation import (
    EXTRACTORS,
    METRICS,
    Plan,
    default_cache,
    feature_extractor,
    measure_sampled,
    plan_metrics,
    sampled_reference,
)
from tempoquant.pipelines import Model

Metrics = Annotated[
    str | None, typer.Option("--metrics", help=f"also, over many images: {', '.join(METRICS)}, clip; such as fd,kid")
]
Extractor = Annotated[str | None, typer.Option("--extractor", help=f"features of --metrics: {', '.join(EXTRACTORS)}")]
Weights = Annotated[Path | None, typer.Option("--extractor-weights", help="a local weights file of the extractor")]
RealImages = Annotated[
    Path | None,
    typer.Option(
        "--reference-images",
        help="a folder, or a .npz of images or of statistics; full precision's own samples if not given",
    ),
]
Clip = Annotated[str | None, typer.Option("--clip", help="CLIP model of the metric clip: a local folder or hub id")]
Cache = Annotated[Path | None, typer.Option("--statistics-cache", help="folder that keeps statistics of references")]
OPTIONS = ("extractor", "extractor_weights", "reference_images", "clip", "statistics_cache", "distribution_samples")
"""Parameters that mean nothing without metrics."""
Samples = Annotated[int, typer.Option("--distribution-samples", **COUNT, help="images drawn for --metrics")]


def plan_of(
    metrics: str | None,
    extractor: str | None,
    weights: Path | None,
    reference: Path | None,
    clip: str | None,
    cache: Path | None,
) -> Plan | None:
    """What these options ask for; None if it is nothing.

    Raises:
        InputError: an option is missing, not valid, or of no use without another.
    """
    if metrics is None:
        return None
    if weights is not None and extractor is None:
        raise InputError("--extractor-weights needs --extractor")
    names = [name.strip() for name in metrics.split(",")]
    loaded = None if extractor is None else feature_extractor(extractor, weights)
    plan = plan_metrics(names, extractor=loaded, reference=reference, clip=clip, cache=cache or default_cache())
    used = {"--extractor": plan.extractor, "--clip": plan.clip, "--reference-images": plan.reference}
    for (flag, part), value in zip(used.items(), (extractor, clip, reference), strict=True):
        if value is not None and part is None:
            raise InputError(f"{flag} {value} is of no use for --metrics {metrics}")
    return plan


def measure(
    plan: Plan,
    full: Model,
    quantized: Model,
    samples: int,
    *,
    conditioning: Mapping[str, Any] | None,
    seed: int,
    **options: Any,
) -> dict[str, Any]:
    """The metrics of the quantized model's samples, which stream by; options are those of ``Model.generate``."""
    drawing = {"samples": samples, "conditioning": conditioning, "seed": seed, **options}
    real = sampled_reference(plan, full, progress(), **drawing)
    return measure_sampled(plan, quantized, real, progress(), **drawing)


def table_rows(found: Mapping[str, Any]) -> Iterator[tuple[str, str, str]]:
    """Name, value and meaning of every metric that :func:`measure` found."""
    for part in found.values():
        if not isinstance(part, Mapping) or "generated" not in part:
            continue
        value = f"{part['precision']:.3f}, {part['recall']:.3f}" if "recall" in part else f"{part['value']:.4g}"
        spread = f" +- {part['std']:.2g}" if "std" in part else ""
        real = f" against {part['real'] or 'an unknown number'}" if "real" in part else ""
        yield part["name"], value + spread, f"{part['generated']} images{real}"
