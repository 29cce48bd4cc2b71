"""One run: quantize, store and compare a model, and describe all of it in one record."""

import functools
import tempfile
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tempoquant.api import quantize, train
from tempoquant.bench.experiment import Experiment
from tempoquant.bench.plan import Run
from tempoquant.bench.policy import integer_engine, policy
from tempoquant.bench.records import Record
from tempoquant.bench.references import columns, conditioning_of, distances, load_reference, metrics_of
from tempoquant.bench.seconds import run_seconds
from tempoquant.checkpoint import machine, versions
from tempoquant.evaluation import PairedMetrics, Reference, compare, save_grid
from tempoquant.job import full_precision
from tempoquant.pipelines import Model, is_image, to_images
from tempoquant.planning import arithmetic_in_float
from tempoquant.progress import Progress
from tempoquant.quantized import QuantizedPipeline
from tempoquant.stopwatch import Stopwatch

PICTURED = 16


@dataclass(frozen=True)
class Setup:
    """The settings that all runs of a bench share, as plain data that is sent to worker processes.

    Attributes:
        experiment: as JSON.
        model: as on the command line.
        out: the bench's folder.
        plugins: files of a user's own methods.
        threads: of each process.
        keep: whether quantized models are kept.
    """

    experiment: str
    model: str
    out: str
    plugins: tuple[str, ...]
    threads: int
    keep: bool = False


@dataclass(frozen=True)
class Task:
    """One run and the folders of the work that it shares with others."""

    run: Run
    identity: str
    reference: Path
    recording: Path
    units: Path


class Runner:
    """Does runs in one process; the model and the full-precision reference are loaded once."""

    def __init__(self, setup: Setup):
        self.setup = setup
        self.experiment = Experiment.model_validate_json(setup.experiment)
        self.model: Model = full_precision(setup.model)
        self.metrics = metrics_of(self.experiment)
        self._loaded: tuple[Path, Reference] | None = None

    def __call__(self, task: Task, progress: Progress) -> Record:
        """The record of a run."""
        experiment, recipe = self.experiment, task.run.recipe
        begun = task.units.exists()
        conditioning = conditioning_of(experiment, self.model, recipe.calibration.samples, evaluated=False)
        shared: dict[str, Any] = {"recording": task.recording, "conditioning": conditioning, "progress": progress}
        if recipe.training is None:
            quantized = quantize(self.model, recipe, units=task.units, **shared)
        else:
            quantized = train(self.model, recipe, data=experiment.data, **shared)
        watch = Stopwatch(quantized.facts["timings"], quantized.facts["cpu_timings"])
        with warnings.catch_warnings():
            # Few samples are the experiment's choice, and stand in every table.
            warnings.filterwarnings("ignore", message=".* the covariance is")
            metrics = compare(self._reference(task.reference), quantized.model, progress=progress)
            by_metric = distances(task.reference, experiment, self.metrics, quantized.model, progress)
        self._picture(task, metrics)
        return {
            "id": task.identity,
            "experiment": experiment.name,
            "model": self.model.name,
            "label": task.run.label,
            "method": recipe.method,
            "reading": recipe.reading,
            "effort": recipe.effort,
            "bits": task.run.bits,
            "seed": recipe.seed,
            "policy": policy(recipe, arithmetic_in_float(quantized.facts["coverage"])),
            "engine": integer_engine(recipe),
            **run_seconds(watch, task.recording, task.units, begun),
            "size": _size(quantized, kept_folder(self.setup, task.run.name, task.identity)),
            "evaluation": experiment.evaluation.model_dump(mode="json"),
            "paired": _plain(metrics),
            "distribution": columns(by_metric),
            "distribution details": by_metric,
            "recipe": recipe.model_dump(mode="json"),
            "machine": machine(),
            "versions": versions(),
        }

    def _reference(self, folder: Path) -> Reference:
        if self._loaded is None or self._loaded[0] != folder:
            self._loaded = folder, load_reference(folder, self.experiment, self.model)
        return self._loaded[1]

    def _picture(self, task: Task, metrics: PairedMetrics) -> None:
        folder = Path(self.setup.out) / "samples"
        if metrics.images is not None and is_image(metrics.images.shape[1:]):
            folder.mkdir(exist_ok=True)
            save_grid(to_images(metrics.images[:PICTURED]), folder / f"{task.run.name.replace('/', '_')}.png")


@functools.lru_cache(maxsize=1)
def runner_of(setup: Setup) -> Runner:
    """The runner of this process, one for equal setups."""
    return Runner(setup)


def kept_folder(setup: Setup, name: str, identity: str) -> Path | None:
    """The folder that a run's quantized model is kept in; None if models are not kept."""
    plain = name.replace("/", "_").replace(" ", "-")
    return Path(setup.out) / "models" / f"{plain}-{identity[:8]}" if setup.keep else None


def _size(quantized: QuantizedPipeline, kept: Path | None) -> dict[str, Any] | None:
    """What the model takes on disk, where it is left if it is kept; None if it has no form there."""
    if not quantized.recipe.has_form:
        return None
    if kept is not None:
        kept.parent.mkdir(exist_ok=True)
        return quantized.save_pretrained(kept, overwrite=True).to_dict()
    with tempfile.TemporaryDirectory(prefix="tempoquant-") as folder:
        return quantized.write(Path(folder)).to_dict()


def _plain(metrics: PairedMetrics) -> dict[str, Any]:
    """Paired metrics without the cosine of every projection at every step."""
    entries = metrics.to_dict()
    return entries | {"cosine": {name: entries["cosine"][name] for name in ("mean", "min")}}
