"""From an experiment to its runs, each with a recipe and a name that only equal runs share."""

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tempoquant.bench.experiment import Experiment, RunSpec, merged, parse_bits
from tempoquant.errors import InputError
from tempoquant.extension import (
    ACTIVATION_RANGES,
    PROVIDERS,
    STAGES,
    WEIGHT_RANGES,
    WEIGHT_ROUNDINGS,
    is_foreign,
    source_hash,
)
from tempoquant.methods import find_method, method_recipe
from tempoquant.pipelines import read_prompts
from tempoquant.recipe import Recipe

RECORDED = ("samples", "steps", "sampler", "eta", "dtype")
"""The calibration entries that decide a recording: the experiment's, so that all runs share one."""

MOST_AT_ONCE = 1024
"""Processes, and threads of each: more than machines have."""

PER_RUN = {"reading": "paper", "effort": "fast"}
"""Entries that a run has itself, or else the experiment's recipe, or else that are these."""


@dataclass(frozen=True)
class Run:
    """One recipe at one seed. ``label``: its row in the tables; ``bits``: e.g. ``W4A8``."""

    label: str
    bits: str
    recipe: Recipe

    @property
    def name(self) -> str:
        """What progress and files call it."""
        return f"{self.label} {self.bits} seed {self.recipe.seed}"


def plan_runs(experiment: Experiment) -> list[Run]:
    """All runs: seed by seed, in the experiment's order.

    Raises:
        InputError: a method, reading or recipe entry is not valid, a run changes what is recorded, or two runs are one.
    """
    runs = [
        Run(spec.name, bits, _recipe(experiment, spec, bits, seed))
        for seed in experiment.seeds
        for spec in experiment.runs
        for bits in spec.bits
    ]
    names: set[str] = set()
    recipes: dict[str, str] = {}
    for run in runs:
        if run.name in names:
            raise InputError(f"{experiment.name}: two runs are called {run.label!r} at {run.bits}: give one a label")
        names.add(run.name)
        first = recipes.setdefault(run.recipe.model_dump_json(), run.name)
        if first != run.name:
            raise InputError(f"{experiment.name}: {first!r} and {run.name!r} are the same run")
    return runs


def _recipe(experiment: Experiment, spec: RunSpec, bits: str, seed: int) -> Recipe:
    weights, activations = parse_bits(bits)
    settings = {name: getattr(spec, name) or experiment.recipe.get(name, usual) for name, usual in PER_RUN.items()}
    method = method_recipe(spec.method, weights=weights, activations=activations, seed=seed, **settings)
    recorded = {"sampler": experiment.sampler, "steps": experiment.steps, "eta": experiment.eta}
    calibration = {**experiment.calibration.model_dump(), **recorded}
    shared = {key: value for key, value in experiment.recipe.items() if key not in PER_RUN}
    entries = merged(merged({"calibration": calibration}, shared), spec.recipe)
    recipe = Recipe.parse(merged(method.model_dump(mode="json"), entries))
    _check_entries(f"{experiment.name}: {spec.name}", recipe, method, calibration)
    return recipe


def _check_entries(where: str, recipe: Recipe, method: Recipe, calibration: dict[str, Any]) -> None:
    """Refuse recipe entries that contradict what stands beside them: the run's own, and what all runs share."""
    for key in ("method", "reading", "effort", "seed"):
        if getattr(recipe, key) != getattr(method, key):
            raise InputError(f"{where}: {key} is an entry of the run, not of its recipe")
    for part in ("weights", "activations"):
        if getattr(recipe, part).bits != getattr(method, part).bits:
            raise InputError(f"{where}: {part}.bits are given by the run's bits, not by its recipe")
    for key in RECORDED:
        if getattr(recipe.calibration, key) != calibration[key]:
            raise InputError(f"{where}: calibration.{key} belongs to the experiment, whose runs share one recording")


def run_identity(run: Run, experiment: Experiment, model_hash: str, reference: str | None = None) -> str:
    """What only runs share that must give the same record: model, recipe, evaluation and the code of a user's own.

    Args:
        reference: hash of the real images that samples are compared with.
    """
    # Without defaults, so that an entry which later versions add changes no name.
    what: dict[str, Any] = {
        "recipe": run.recipe.model_dump(mode="json", exclude_defaults=True),
        "own code": own_code(run.recipe),
        "evaluation": experiment.evaluation.entries(),
        "conditioning": drawn_from(experiment),
        "model": model_hash,
    }
    if run.recipe.training is not None:
        what["data"] = experiment.data
    return short_hash(what if reference is None else {**what, "reference": reference})


def own_code(recipe: Recipe) -> list[str | None]:
    """Hashes of the files of a user's functions that a recipe comes from and names."""
    functions = (
        find_method(recipe.method).factory,
        WEIGHT_RANGES[recipe.weights.range],
        WEIGHT_ROUNDINGS[recipe.weights.rounding],
        ACTIVATION_RANGES[recipe.activations.range],
        # This package's own kinds are left out: runs that were done before there were others keep their names.
        *(kind for name, kind in PROVIDERS.items() if name == recipe.activations.steps and is_foreign(kind)),
        *(STAGES[name].make for name in recipe.stages),
    )
    return [source_hash(function) for function in functions]


def drawn_from(experiment: Experiment) -> dict[str, Any]:
    """The conditioning entries, with the prompts themselves in the place of their file."""
    entries = experiment.conditioning.model_dump(mode="json")
    if experiment.conditioning.prompts is not None:
        entries["prompts"] = read_prompts(Path(experiment.conditioning.prompts))
    return entries


def short_hash(what: Any) -> str:
    """blake2b (8 bytes, hex) of plain data."""
    return hashlib.blake2b(json.dumps(what, sort_keys=True).encode(), digest_size=8).hexdigest()
