"""Work that runs share, done before them: the reference, one recording a seed, folders of finished weights."""

import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tempoquant.bench.board import Board
from tempoquant.bench.experiment import Experiment
from tempoquant.bench.paper_schedule import paper_seconds, time_entries
from tempoquant.bench.plan import Run, drawn_from, own_code, run_identity, short_hash
from tempoquant.bench.records import Records
from tempoquant.bench.references import check_metrics, conditioning_of, make_reference
from tempoquant.bench.runner import Task
from tempoquant.bench.seconds import timing
from tempoquant.evaluation import Plan, undefined_metrics, why_undefined
from tempoquant.graph import DenoiserGraph, read_denoiser
from tempoquant.pipelines import Model, state_hash
from tempoquant.planning import LayerPlan, plan_layers, settled
from tempoquant.recipe import Recipe
from tempoquant.recording import Store
from tempoquant.sampling import build_scheduler, check_eta
from tempoquant.stages import probe_of, record_trajectories, unit_identity


class Shared:
    """The shared work of an experiment on one model; everything about it is checked when it is made.

    Args:
        experiment: to run.
        model: the full-precision model.
        metrics: of many samples, or None.
        runs: of the experiment.
        work: the folder of shared work.
        board: where progress is shown.

    Raises:
        InputError: the experiment does not fit the model.
    """

    def __init__(
        self,
        experiment: Experiment,
        model: Model,
        metrics: Plan | None,
        runs: Sequence[Run],
        work: Path,
        board: Board,
    ):
        self.experiment, self.model, self.metrics, self.work, self.board = experiment, model, metrics, work, board
        model.timesteps(experiment.steps, experiment.sampler)
        check_eta(build_scheduler(model.denoiser.scheduler, experiment.sampler), experiment.eta)
        conditioning_of(experiment, model, experiment.evaluation.images, evaluated=True)
        check_metrics(experiment, model, metrics)
        if undefined_metrics(model.pixel_shape):
            warnings.warn(why_undefined(model.pixel_shape), stacklevel=2)
        self.conditioning = conditioning_of(experiment, model, experiment.calibration.samples, evaluated=False)
        self.model_hash = state_hash(model.denoiser.module)
        real = None if metrics is None or metrics.reference is None else metrics.reference.digest()
        self.identities = {run.name: run_identity(run, experiment, self.model_hash, real) for run in runs}
        self.graph: DenoiserGraph = read_denoiser(probe_of(model, runs[0].recipe, self.conditioning))
        for run in runs:
            self._planned(run)

    def chains(self, runs: Sequence[Run]) -> list[list[Task]]:
        """The tasks of ``runs``, those with equal weights in one chain; makes what they share."""
        reference = self._folder("full-precision", self.experiment.evaluation.entries())
        make_reference(reference, self.experiment, self.model, self.graph.projections, self.metrics, self.board)
        chains: dict[Path, list[Task]] = {}
        for run in runs:
            recording = self._recording(run.recipe)
            weights = unit_identity(Store(recording), *self._planned(run))
            units = self._folder("units", weights, own_code(run.recipe))
            chains.setdefault(units, []).append(Task(run, self.identities[run.name], reference, recording, units))
        return list(chains.values())

    def estimates(self, runs: Sequence[Run], cached: Records) -> dict[str, dict[str, Any]]:
        """Estimate the seconds of each run at the papers' schedule, by its name; see :func:`paper_seconds`.

        Args:
            runs: of the experiment.
            cached: earlier estimates; new ones are appended.
        """
        by_name = {}
        for run in runs:
            key = short_hash([time_entries(run.recipe), own_code(run.recipe), self.model_hash, self._sampling])
            if key not in cached.by_id:
                recording, name = self._recording(run.recipe), f"paper schedule of {run.name}"
                self.board.began(name)
                seconds = paper_seconds(self.model, run.recipe, recording, self.conditioning, self.board)
                cached.append({"id": key, **seconds})
                self.board.ended(name, "estimated")
            by_name[run.name] = cached.by_id[key]
        return by_name

    def _planned(self, run: Run) -> tuple[Recipe, dict[str, LayerPlan]]:
        """A run's recipe as it is for this denoiser, and what happens to every layer."""
        recipe = settled(self.graph, run.recipe)
        return recipe, plan_layers(self.graph, recipe)

    def _recording(self, recipe: Recipe) -> Path:
        folder = self._folder("recording", recipe.calibration.samples, recipe.calibration.dtype, recipe.seed)
        with timing(folder, "record"):
            record_trajectories(self.model, recipe, folder, self.board, self.conditioning)
        return folder

    def _folder(self, kind: str, *what: Any) -> Path:
        """A folder named by all that its content depends on, so that a changed experiment takes another."""
        return self.work / f"{kind}-{short_hash([self.model_hash, self._sampling, what])}"

    @property
    def _sampling(self) -> list[Any]:
        """What decides how samples are drawn."""
        return [self.experiment.sampler, self.experiment.steps, self.experiment.eta, drawn_from(self.experiment)]
