"""The full-precision reference of an experiment, computed once and stored for all runs, workers and resumed benches."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor

from tempoquant.arguments import nested
from tempoquant.bench.experiment import Experiment, labels
from tempoquant.evaluation import (
    Plan,
    Reference,
    check_sampled,
    default_cache,
    feature_extractor,
    load_statistics,
    measure_sampled,
    plan_metrics,
    reference,
    sampled_reference,
    save_statistics,
)
from tempoquant.files import save_tensors
from tempoquant.pipelines import BareModel, DenoiserCall, Model, read_prompts
from tempoquant.progress import Progress
from tempoquant.recording import Conditions
from tempoquant.sampling import Unbatched

PAIRED, REAL = "paired.safetensors", "statistics.safetensors"


def conditioning_of(experiment: Experiment, model: Model, samples: int, evaluated: bool) -> dict[str, Any] | None:
    """The ``conditioning`` of ``model.generate``: the first entries for calibration, those that follow to evaluate.

    Raises:
        InputError: the model takes none, or lacks what it needs.
    """
    settings = experiment.conditioning
    lists: dict[str, list[Any]] = {}
    if settings.prompts is not None:
        lists["prompt"] = list(read_prompts(Path(settings.prompts)))
    evaluation_classes = experiment.evaluation.classes if evaluated else None
    if settings.classes is not None or evaluation_classes is not None:
        lists["class_labels"] = list(labels(evaluation_classes or settings.classes))
    first = experiment.calibration.samples if evaluated and evaluation_classes is None else 0
    conditioning: dict[str, Any] = {
        name: [values[(first + i) % len(values)] for i in range(samples)] for name, values in lists.items()
    }
    if isinstance(model, BareModel):
        conditioning = {name: torch.tensor(values) for name, values in conditioning.items()}
    if settings.guidance is not None:
        conditioning["guidance_scale"] = settings.guidance
    model.check_conditioning(conditioning or None, samples)
    return conditioning or None


def schedule(experiment: Experiment) -> dict[str, Any]:
    """How evaluated samples are drawn, but for how many."""
    evaluation = experiment.evaluation
    noise = {"seed": evaluation.seed, "batch_size": evaluation.batch_size}
    return {"steps": experiment.steps, "sampler": experiment.sampler, "eta": experiment.eta, **noise}


def make_reference(
    folder: Path,
    experiment: Experiment,
    model: Model,
    projections: Sequence[str],
    plan: Plan | None,
    progress: Progress,
) -> None:
    """Compute and store what :func:`load_reference` and :func:`distances` read, unless ``folder`` has it.

    Args:
        folder: that it is stored in.
        experiment: that decides how samples are drawn.
        model: the full-precision model.
        projections: temporal layers whose features are compared.
        plan: of :func:`metrics_of`.
        progress: where it is shown.
    """
    folder.mkdir(parents=True, exist_ok=True)
    evaluation = experiment.evaluation
    if not (folder / PAIRED).exists():
        paired = reference(
            model,
            projections=projections,
            samples=evaluation.images,
            noise_samples=evaluation.noise_samples,
            conditioning=conditioning_of(experiment, model, evaluation.images, evaluated=True),
            progress=progress,
            **schedule(experiment),
        )
        save_tensors(_flat(paired), folder / PAIRED)
    if plan is not None and plan.needs_reference and plan.reference is None and not (folder / REAL).exists():
        drawn = sampled_reference(plan, model, progress, **drawing_of(experiment, model))
        assert drawn is not None
        save_statistics(drawn, folder / REAL)


def load_reference(folder: Path, experiment: Experiment, model: Model) -> Reference:
    """The paired reference that :func:`make_reference` computed."""
    tensors, evaluation = load_file(folder / PAIRED), experiment.evaluation
    calls = sum(name.startswith("predictions.") for name in tensors)
    run = {"samples": evaluation.images, **schedule(experiment)}
    run["conditioning"] = conditioning_of(experiment, model, evaluation.images, evaluated=True)
    features = {n.removeprefix("features."): t for n, t in tensors.items() if n.startswith("features.")}
    recorded = [_call(k, tensors) for k in range(calls)]
    return Reference(run, tensors["images"], recorded, [tensors[f"predictions.{k}"] for k in range(calls)], features)


def metrics_of(experiment: Experiment) -> Plan | None:
    """What the experiment measures of many samples, everything for it loaded; None if nothing.

    Raises:
        InputError: a metric is not known, or lacks its extractor, reference or CLIP model.
    """
    distribution = experiment.evaluation.distribution
    if distribution is None:
        return None
    loaded = None if distribution.features is None else feature_extractor(distribution.features, distribution.weights)
    return plan_metrics(
        distribution.metrics,
        extractor=loaded,
        reference=distribution.reference,
        clip=distribution.clip,
        cache=default_cache(),
    )


def check_metrics(experiment: Experiment, model: Model, plan: Plan | None) -> None:
    """Raise InputError unless ``plan`` can measure the samples of ``model``."""
    if plan is not None:
        drawing = drawing_of(experiment, model)
        check_sampled(plan, model, drawing["samples"], drawing["conditioning"])


def drawing_of(experiment: Experiment, model: Model) -> dict[str, Any]:
    """How the samples of :func:`metrics_of` are drawn."""
    distribution = experiment.evaluation.distribution
    assert distribution is not None
    conditioning = conditioning_of(experiment, model, distribution.samples, evaluated=True)
    return {"samples": distribution.samples, "conditioning": conditioning, **schedule(experiment)}


def distances(
    folder: Path, experiment: Experiment, plan: Plan | None, quantized: Model, progress: Progress
) -> dict[str, Any]:
    """What the plan finds of the quantized model's samples, as :meth:`Plan.measure` gives it; empty without one."""
    if plan is None:
        return {}
    real = load_statistics(folder / REAL) if (folder / REAL).exists() else plan.real_statistics(progress)
    return measure_sampled(plan, quantized, real, progress, **drawing_of(experiment, quantized))


def columns(by_metric: Mapping[str, Any]) -> dict[str, float]:
    """The numbers of :func:`distances` by the names of their columns, which say the extractor."""
    by_column: dict[str, float] = {}
    for part in by_metric.values():
        if isinstance(part, Mapping) and "recall" in part:
            suffix = part["name"].removeprefix("PR") if part["name"].startswith("PR-") else ""
            by_column |= {f"precision{suffix}": part["precision"], f"recall{suffix}": part["recall"]}
        elif isinstance(part, Mapping) and "value" in part:
            by_column[part["name"]] = part["value"]
    return by_column


def _flat(paired: Reference) -> dict[str, Tensor]:
    tensors = {"images": paired.images}
    for k, (call, prediction) in enumerate(zip(paired.calls, paired.predictions, strict=True)):
        parts = {"t": call.t, "indices": call.indices, "sample": call.sample}
        tensors |= {f"calls.{k}.{name}": value for name, value in parts.items()}
        stored = Conditions.of(call)
        tensors |= {f"calls.{k}.conditioning.{name}": value for name, value in stored.batched.items()}
        tensors |= {f"calls.{k}.unbatched.{name}": value for name, value in stored.unbatched.items()}
        tensors[f"predictions.{k}"] = prediction
    return tensors | {f"features.{name}": value for name, value in paired.features.items()}


def _call(k: int, tensors: Mapping[str, Tensor]) -> DenoiserCall:
    start = f"calls.{k}."
    parts = {name.removeprefix(start): value for name, value in tensors.items() if name.startswith(start)}
    batched = {n.removeprefix("conditioning."): value for n, value in parts.items() if n.startswith("conditioning.")}
    shared = {n.removeprefix("unbatched."): Unbatched(v) for n, v in parts.items() if n.startswith("unbatched.")}
    return DenoiserCall(k, parts["t"], parts["indices"], parts["sample"], nested({**batched, **shared}))
