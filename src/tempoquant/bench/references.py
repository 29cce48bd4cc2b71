"""What full precision does, computed once and kept on disk for all runs, workers and resumed benches."""

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


def conditioning_of(experiment: Experiment, target: Model, samples: int, evaluated: bool) -> dict[str, Any] | None:
    """The ``conditioning`` of ``target.generate``: the first entries for calibration, those that follow to evaluate.

    Raises:
        InputError: the model takes none, or lacks what it needs.
    """
    given = experiment.conditioning
    lists: dict[str, list[Any]] = {}
    if given.prompts is not None:
        lists["prompt"] = list(read_prompts(Path(given.prompts)))
    own = experiment.evaluation.classes if evaluated else None
    if given.classes is not None or own is not None:
        lists["class_labels"] = list(labels(own or given.classes))
    first = experiment.calibration.samples if evaluated and own is None else 0
    made: dict[str, Any] = {
        name: [values[(first + i) % len(values)] for i in range(samples)] for name, values in lists.items()
    }
    if isinstance(target, BareModel):
        made = {name: torch.tensor(values) for name, values in made.items()}
    if given.guidance is not None:
        made["guidance_scale"] = given.guidance
    target.check_conditioning(made or None, samples)
    return made or None


def schedule(experiment: Experiment) -> dict[str, Any]:
    """How evaluated samples are drawn, but for how many."""
    evaluation = experiment.evaluation
    own = {"seed": evaluation.seed, "batch_size": evaluation.batch_size}
    return {"steps": experiment.steps, "sampler": experiment.sampler, "eta": experiment.eta, **own}


def make_truth(
    folder: Path,
    experiment: Experiment,
    target: Model,
    projections: Sequence[str],
    plan: Plan | None,
    progress: Progress,
) -> None:
    """Compute what :func:`load_truth` and :func:`distances` read, unless it lies in ``folder`` already.

    Args:
        plan: of :func:`metrics_of`.
    """
    folder.mkdir(parents=True, exist_ok=True)
    wanted = experiment.evaluation
    if not (folder / PAIRED).exists():
        truth = reference(
            target,
            projections=projections,
            samples=wanted.images,
            noise_samples=wanted.noise_samples,
            conditioning=conditioning_of(experiment, target, wanted.images, evaluated=True),
            progress=progress,
            **schedule(experiment),
        )
        save_tensors(_flat(truth), folder / PAIRED)
    if plan is not None and plan.needs_reference and plan.reference is None and not (folder / REAL).exists():
        drawn = sampled_reference(plan, target, progress, **drawing_of(experiment, target))
        assert drawn is not None
        save_statistics(drawn, folder / REAL)


def load_truth(folder: Path, experiment: Experiment, target: Model) -> Reference:
    """The paired reference that :func:`make_truth` computed."""
    tensors, wanted = load_file(folder / PAIRED), experiment.evaluation
    calls = sum(name.startswith("predictions.") for name in tensors)
    run = {"samples": wanted.images, **schedule(experiment)}
    run["conditioning"] = conditioning_of(experiment, target, wanted.images, evaluated=True)
    features = {n.removeprefix("features."): t for n, t in tensors.items() if n.startswith("features.")}
    seen = [_call(k, tensors) for k in range(calls)]
    return Reference(run, tensors["images"], seen, [tensors[f"predictions.{k}"] for k in range(calls)], features)


def metrics_of(experiment: Experiment) -> Plan | None:
    """What the experiment measures of many samples, everything for it loaded; None if nothing.

    Raises:
        InputError: a metric is not known, or lacks its extractor, reference or CLIP model.
    """
    wanted = experiment.evaluation.distribution
    if wanted is None:
        return None
    loaded = None if wanted.features is None else feature_extractor(wanted.features, wanted.weights)
    return plan_metrics(
        wanted.metrics, extractor=loaded, reference=wanted.reference, clip=wanted.clip, cache=default_cache()
    )


def check_metrics(experiment: Experiment, target: Model, plan: Plan | None) -> None:
    """Raise InputError unless ``plan`` can measure the samples of ``target``."""
    if plan is not None:
        drawing = drawing_of(experiment, target)
        check_sampled(plan, target, drawing["samples"], drawing["conditioning"])


def drawing_of(experiment: Experiment, target: Model) -> dict[str, Any]:
    """How the samples of :func:`metrics_of` are drawn."""
    wanted = experiment.evaluation.distribution
    assert wanted is not None
    conditioning = conditioning_of(experiment, target, wanted.samples, evaluated=True)
    return {"samples": wanted.samples, "conditioning": conditioning, **schedule(experiment)}


def distances(
    folder: Path, experiment: Experiment, plan: Plan | None, quantized: Model, progress: Progress
) -> dict[str, Any]:
    """What the plan finds of the quantized model's samples, as :meth:`Plan.measure` gives it; empty without one."""
    if plan is None:
        return {}
    real = load_statistics(folder / REAL) if (folder / REAL).exists() else plan.real_statistics(progress)
    return measure_sampled(plan, quantized, real, progress, **drawing_of(experiment, quantized))


def columns(found: Mapping[str, Any]) -> dict[str, float]:
    """The numbers of :func:`distances` by the names of their columns, which say the extractor."""
    made: dict[str, float] = {}
    for part in found.values():
        if isinstance(part, Mapping) and "recall" in part:
            own = part["name"].removeprefix("PR") if part["name"].startswith("PR-") else ""
            made |= {f"precision{own}": part["precision"], f"recall{own}": part["recall"]}
        elif isinstance(part, Mapping) and "value" in part:
            made[part["name"]] = part["value"]
    return made


def _flat(truth: Reference) -> dict[str, Tensor]:
    tensors = {"images": truth.images}
    for k, (call, prediction) in enumerate(zip(truth.calls, truth.predictions, strict=True)):
        parts = {"t": call.t, "indices": call.indices, "sample": call.sample}
        tensors |= {f"calls.{k}.{name}": value for name, value in parts.items()}
        stored = Conditions.of(call)
        tensors |= {f"calls.{k}.conditioning.{name}": value for name, value in stored.batched.items()}
        tensors |= {f"calls.{k}.unbatched.{name}": value for name, value in stored.unbatched.items()}
        tensors[f"predictions.{k}"] = prediction
    return tensors | {f"features.{name}": value for name, value in truth.features.items()}


def _call(k: int, tensors: Mapping[str, Tensor]) -> DenoiserCall:
    start = f"calls.{k}."
    own = {name.removeprefix(start): value for name, value in tensors.items() if name.startswith(start)}
    batched = {n.removeprefix("conditioning."): value for n, value in own.items() if n.startswith("conditioning.")}
    shared = {n.removeprefix("unbatched."): Unbatched(v) for n, v in own.items() if n.startswith("unbatched.")}
    return DenoiserCall(k, own["t"], own["indices"], own["sample"], nested({**batched, **shared}))
