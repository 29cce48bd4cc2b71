"""What full precision does, computed once and kept on disk for all runs, workers and resumed benches."""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from tempoquant.bench.experiment import Distribution, Evaluation, Experiment, labels
from tempoquant.errors import InputError
from tempoquant.evaluation import Reference, feature_extractor, frechet_distance, reference
from tempoquant.pipelines import BareTarget, Seen, Target, to_images
from tempoquant.pipelines.prompts import read_prompts
from tempoquant.progress import Progress

PAIRED, REAL = "paired.safetensors", "distribution.safetensors"
DISTRIBUTION_BEGINS = 100_000
"""The first sample index of distribution samples: other noise than the paired ones'."""


def conditioning_of(experiment: Experiment, target: Target, samples: int, evaluated: bool) -> dict[str, Any] | None:
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
    if isinstance(target, BareTarget):
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
    folder: Path, experiment: Experiment, target: Target, projections: Sequence[str], progress: Progress
) -> None:
    """Compute what :func:`load_truth` and :func:`distances` read, unless it lies in ``folder`` already."""
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
        _save(folder / PAIRED, _flat(truth))
    if wanted.distribution is not None and not (folder / REAL).exists():
        _save(folder / REAL, {"images": draw(experiment, wanted.distribution, target, progress)})


def load_truth(folder: Path, experiment: Experiment, target: Target) -> Reference:
    """The paired reference that :func:`make_truth` computed."""
    tensors, wanted = load_file(folder / PAIRED), experiment.evaluation
    calls = sum(name.startswith("predictions.") for name in tensors)
    run = {"samples": wanted.images, **schedule(experiment)}
    run["conditioning"] = conditioning_of(experiment, target, wanted.images, evaluated=True)
    features = {n.removeprefix("features."): t for n, t in tensors.items() if n.startswith("features.")}
    seen = [_call(k, tensors) for k in range(calls)]
    return Reference(run, tensors["images"], seen, [tensors[f"predictions.{k}"] for k in range(calls)], features)


def draw(experiment: Experiment, wanted: Distribution, target: Target, progress: Progress) -> Tensor:
    """Distribution samples of a model, (N, C, H, W) uint8."""
    indices = range(DISTRIBUTION_BEGINS, DISTRIBUTION_BEGINS + wanted.samples)
    conditioning = conditioning_of(experiment, target, wanted.samples, evaluated=True)
    images = target.generate(indices, conditioning=conditioning, progress=progress, **schedule(experiment))
    return to_images(images).permute(0, 3, 1, 2).contiguous()


def distances(folder: Path, experiment: Experiment, quantized: Target, progress: Progress) -> dict[str, float]:
    """Distances of the quantized model's samples from full precision's, by name; empty if none is asked for."""
    wanted = experiment.evaluation.distribution
    if wanted is None:
        return {}
    real, drawn = load_file(folder / REAL)["images"], draw(experiment, wanted, quantized, progress)
    found = frechet_distance(real, drawn, feature_extractor(wanted.features), progress=progress)
    return {found.name: found.value}


def check_extractor(evaluation: Evaluation) -> None:
    """Raise InputError if the packages or weights of the asked-for features are missing."""
    if evaluation.distribution is not None:
        feature_extractor(evaluation.distribution.features)


def _flat(truth: Reference) -> dict[str, Tensor]:
    tensors = {"images": truth.images}
    for k, (call, prediction) in enumerate(zip(truth.calls, truth.predictions, strict=True)):
        parts = {"t": call.t, "indices": call.indices, "sample": call.sample}
        tensors |= {f"calls.{k}.{name}": value for name, value in parts.items()}
        tensors |= _named(call.conditioning, f"calls.{k}.conditioning.")
        tensors[f"predictions.{k}"] = prediction
    return tensors | {f"features.{name}": value for name, value in truth.features.items()}


def _named(tree: Mapping[str, Any], prefix: str) -> dict[str, Tensor]:
    """Nested keyword tensors by path; absent ones are left out."""
    flat: dict[str, Tensor] = {}
    for name, value in tree.items():
        if isinstance(value, Mapping):
            flat |= _named(value, f"{prefix}{name}.")
        elif isinstance(value, Tensor):
            flat[prefix + name] = value
        elif value is not None:
            raise InputError(f"conditioning {name!r} is a {type(value).__name__}: only tensors can be kept")
    return flat


def _call(k: int, tensors: Mapping[str, Tensor]) -> Seen:
    start, tree = f"calls.{k}.", {}  # type: ignore[var-annotated]
    for name, value in tensors.items():
        if name.startswith(f"{start}conditioning."):
            *parents, leaf = name.removeprefix(f"{start}conditioning.").split(".")
            place = tree
            for parent in parents:
                place = place.setdefault(parent, {})
            place[leaf] = value
    return Seen(k, tensors[f"{start}t"], tensors[f"{start}indices"], tensors[f"{start}sample"], tree)


def _save(path: Path, tensors: Mapping[str, Tensor]) -> None:
    temporary = path.with_suffix(".writing")
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, temporary)
    os.replace(temporary, path)
