"""What runs share, made before them: full precision, one recording a seed, the folders of finished weights."""

import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tempoquant.bench.board import Board
from tempoquant.bench.experiment import Experiment
from tempoquant.bench.paper_schedule import paper_seconds, time_entries
from tempoquant.bench.plan import Run, drawn_from, own_code, run_identity, short_hash
from tempoquant.bench.records import Records
from tempoquant.bench.references import check_metrics, conditioning_of, make_truth
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
        metrics: of many samples, or None. runs: of the experiment. work: the folder of shared work.

    Raises:
        InputError: the experiment does not fit the model.
    """

    def __init__(
        self,
        experiment: Experiment,
        target: Model,
        metrics: Plan | None,
        runs: Sequence[Run],
        work: Path,
        board: Board,
    ):
        self.experiment, self.target, self.metrics, self.work, self.board = experiment, target, metrics, work, board
        target.timesteps(experiment.steps, experiment.sampler)
        check_eta(build_scheduler(target.denoiser.scheduler, experiment.sampler), experiment.eta)
        conditioning_of(experiment, target, experiment.evaluation.images, evaluated=True)
        check_metrics(experiment, target, metrics)
        if undefined_metrics(target.pixel_shape):
            warnings.warn(why_undefined(target.pixel_shape), stacklevel=2)
        self.conditioning = conditioning_of(experiment, target, experiment.calibration.samples, evaluated=False)
        self.model_hash = state_hash(target.denoiser.module)
        real = None if metrics is None or metrics.reference is None else metrics.reference.digest()
        self.identities = {run.name: run_identity(run, experiment, self.model_hash, real) for run in runs}
        self.graph: DenoiserGraph = read_denoiser(probe_of(target, runs[0].recipe, self.conditioning))
        for run in runs:
            self._planned(run)

    def chains(self, runs: Sequence[Run]) -> list[list[Task]]:
        """The tasks of ``runs``, those with equal weights in one chain; makes what they share."""
        truth = self._folder("full-precision", self.experiment.evaluation.entries())
        make_truth(truth, self.experiment, self.target, self.graph.projections, self.metrics, self.board)
        chains: dict[Path, list[Task]] = {}
        for run in runs:
            recording = self._recording(run.recipe)
            weights = unit_identity(Store(recording), *self._planned(run))
            units = self._folder("units", weights, own_code(run.recipe))
            chains.setdefault(units, []).append(Task(run, self.identities[run.name], truth, recording, units))
        return list(chains.values())

    def estimates(self, runs: Sequence[Run], known: Records) -> dict[str, dict[str, Any]]:
        """What each run would take at the papers' schedule, by its name; see :func:`paper_seconds`.

        Args:
            known: earlier estimates; new ones are appended.
        """
        found = {}
        for run in runs:
            key = short_hash([time_entries(run.recipe), own_code(run.recipe), self.model_hash, self._drawn])
            if key not in known.by_id:
                recording, name = self._recording(run.recipe), f"paper schedule of {run.name}"
                self.board.began(name)
                seconds = paper_seconds(self.target, run.recipe, recording, self.conditioning, self.board)
                known.append({"id": key, **seconds})
                self.board.ended(name, "estimated")
            found[run.name] = known.by_id[key]
        return found

    def _planned(self, run: Run) -> tuple[Recipe, dict[str, LayerPlan]]:
        """A run's recipe as it is for this denoiser, and what happens to every layer."""
        recipe = settled(self.graph, run.recipe)
        return recipe, plan_layers(self.graph, recipe)

    def _recording(self, recipe: Recipe) -> Path:
        folder = self._folder("recording", recipe.calibration.samples, recipe.calibration.dtype, recipe.seed)
        with timing(folder, "record"):
            record_trajectories(self.target, recipe, folder, self.board, self.conditioning)
        return folder

    def _folder(self, kind: str, *what: Any) -> Path:
        """A folder named by all that its content depends on, so that a changed experiment takes another."""
        return self.work / f"{kind}-{short_hash([self.model_hash, self._drawn, what])}"

    @property
    def _drawn(self) -> list[Any]:
        """What decides how samples are drawn."""
        return [self.experiment.sampler, self.experiment.steps, self.experiment.eta, drawn_from(self.experiment)]
