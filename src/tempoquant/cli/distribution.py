"""Metrics of many images on the command line: what to measure, with what, and against which images."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from tempoquant.cli.options import COUNT, progress, refuse
from tempoquant.errors import InputError, unknown
from tempoquant.evaluation import CLIP, EXTRACTORS, METRIC_NAMES, PUBLISHED_NAMES

if TYPE_CHECKING:
    from tempoquant.evaluation import Plan
    from tempoquant.pipelines import Model

Metrics = Annotated[
    str | None,
    typer.Option("--metrics", help=f"also, over many images: {', '.join((*METRIC_NAMES, CLIP))}; such as fd,kid"),
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
Samples = Annotated[int, typer.Option("--distribution-samples", **COUNT, help="images drawn for --metrics")]
OPTIONS = ("extractor", "extractor_weights", "reference_images", "clip", "statistics_cache", "distribution_samples")
"""Parameters that mean nothing without metrics."""


@dataclass(frozen=True)
class DistributionFlags:
    """Values of ``--metrics`` and of the options that are of use with it, see :func:`check_flags`."""

    metrics: str | None
    extractor: str | None
    weights: Path | None
    reference: Path | None
    clip: str | None
    cache: Path | None

    @property
    def names(self) -> list[str]:
        """The metrics; none without ``--metrics``."""
        return [] if self.metrics is None else [name.strip() for name in self.metrics.split(",")]

    @property
    def keys(self) -> list[str]:
        """The metrics by the names of their results: published ones by those of the same metric on any features."""
        return [PUBLISHED_NAMES.get(name, name) for name in self.names]


def check_flags(context: typer.Context, flags: DistributionFlags) -> None:
    """Refuse options that are not valid, or void without others, as far as that is seen without loading anything.

    Raises:
        InputError: one line that names the option.
    """
    if flags.metrics is None:
        refuse(context, OPTIONS, "is of use with --metrics alone, such as --metrics fd")
    for name, key in zip(flags.names, flags.keys, strict=True):
        if key not in (*METRIC_NAMES, CLIP):
            raise unknown("metric", name, [*METRIC_NAMES, *PUBLISHED_NAMES, CLIP])
    if flags.extractor is None:
        refuse(context, ("extractor_weights",), "needs --extractor")
    elif flags.extractor not in EXTRACTORS:
        raise unknown("feature extractor", flags.extractor, EXTRACTORS)
    if flags.reference is None:
        refuse(context, ("statistics_cache",), "keeps statistics of --reference-images, and none are given")


def plan_of(flags: DistributionFlags) -> "Plan | None":
    """What these options ask for, everything for it loaded; None if it is nothing.

    Raises:
        InputError: an option is missing, or of no use for the metrics.
    """
    if flags.metrics is None:
        return None
    from tempoquant.evaluation import default_cache, feature_extractor, plan_metrics

    loaded = None if flags.extractor is None else feature_extractor(flags.extractor, flags.weights)
    cache = flags.cache or default_cache()
    plan = plan_metrics(flags.names, extractor=loaded, reference=flags.reference, clip=flags.clip, cache=cache)
    used = {"--extractor": plan.extractor, "--clip": plan.clip, "--reference-images": plan.reference}
    for (flag, part), value in zip(used.items(), (flags.extractor, flags.clip, flags.reference), strict=True):
        if value is not None and part is None:
            raise InputError(f"{flag} {value} is of no use for --metrics {flags.metrics}")
    return plan


def measure(
    plan: "Plan",
    full: "Model",
    quantized: "Model",
    samples: int,
    *,
    conditioning: Mapping[str, Any] | None,
    seed: int,
    **options: Any,
) -> dict[str, Any]:
    """The metrics of the quantized model's samples, which stream by; options are those of ``Model.generate``."""
    from tempoquant.evaluation import measure_sampled, sampled_reference

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
