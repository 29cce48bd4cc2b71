"""One run: quantize, store, compare, and say everything about it in one record."""

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
from tempoquant.bench.references import columns, conditioning_of, distances, load_truth, metrics_of
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
    """What all runs of a bench share, as plain data that goes to worker processes.

    Attributes:
        experiment: as JSON. model: what a user calls it. out: the bench's folder.
        plugins: files of a user's own methods. threads: of each process. keep: whether quantized models are kept.
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
    truth: Path
    recording: Path
    units: Path


class Judge:
    """Does runs in one process; the model and what full precision does are loaded once."""

    def __init__(self, setup: Setup):
        self.setup = setup
        self.experiment = Experiment.model_validate_json(setup.experiment)
        self.target: Model = full_precision(setup.model)
        self.metrics = metrics_of(self.experiment)
        self._truth: tuple[Path, Reference] | None = None

    def __call__(self, task: Task, progress: Progress) -> Record:
        """The record of a run."""
        experiment, recipe = self.experiment, task.run.recipe
        begun = task.units.exists()
        conditioning = conditioning_of(experiment, self.target, recipe.calibration.samples, evaluated=False)
        shared: dict[str, Any] = {"recording": task.recording, "conditioning": conditioning, "progress": progress}
        if recipe.training is None:
            quantized = quantize(self.target, recipe, units=task.units, **shared)
        else:
            quantized = train(self.target, recipe, data=experiment.data, **shared)
        watch = Stopwatch(quantized.facts["timings"], quantized.facts["cpu_timings"])
        with warnings.catch_warnings():
            # Few samples are the experiment's choice, and stand in every table.
            warnings.filterwarnings("ignore", message=".* the covariance is")
            metrics = compare(self._reference(task.truth), quantized.model, progress=progress)
            found = distances(task.truth, experiment, self.metrics, quantized.model, progress)
        self._picture(task, metrics)
        return {
            "id": task.identity,
            "experiment": experiment.name,
            "model": self.target.name,
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
            "distribution": columns(found),
            "distribution details": found,
            "recipe": recipe.model_dump(mode="json"),
            "machine": machine(),
            "versions": versions(),
        }

    def _reference(self, folder: Path) -> Reference:
        if self._truth is None or self._truth[0] != folder:
            self._truth = folder, load_truth(folder, self.experiment, self.target)
        return self._truth[1]

    def _picture(self, task: Task, metrics: PairedMetrics) -> None:
        folder = Path(self.setup.out) / "samples"
        if metrics.images is not None and is_image(metrics.images.shape[1:]):
            folder.mkdir(exist_ok=True)
            save_grid(to_images(metrics.images[:PICTURED]), folder / f"{task.run.name.replace('/', '_')}.png")


@functools.lru_cache(maxsize=1)
def judge(setup: Setup) -> Judge:
    """The judge of this process."""
    return Judge(setup)


def kept_folder(setup: Setup, name: str, identity: str) -> Path | None:
    """Where the model of a run is kept; None if models are not."""
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
    found = metrics.to_dict()
    return found | {"cosine": {name: found["cosine"][name] for name in ("mean", "min")}}
