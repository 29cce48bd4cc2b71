"""The main job: a recipe decides the stages, and these turn a copy of the denoiser into a quantized one."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import nn

from tempoquant.checkpoint import Blueprint
from tempoquant.correction import CorrectionTables
from tempoquant.errors import InputError
from tempoquant.graph import DenoiserGraph
from tempoquant.intervals import Clock
from tempoquant.layers import quantized_layers
from tempoquant.pipelines import Model, in_float32, resolve
from tempoquant.planning import Coverage
from tempoquant.progress import Progress
from tempoquant.recipe import Recipe
from tempoquant.reconstruction import Effort
from tempoquant.stages import (
    Activations,
    ActivationSteps,
    CachedFeatures,
    Correction,
    JobState,
    Read,
    Record,
    Stage,
    TemporalFeatures,
    Transform,
    Tuning,
    Units,
    WorkFolders,
    ordered,
    run_stages,
)
from tempoquant.stopwatch import Stopwatch


@dataclass(frozen=True)
class Quantized:
    """A quantized denoiser, and what is known of it.

    Attributes:
        module: the network; its clock is attached.
        blueprint: its structure.
        clock: the time steps of its tables.
        graph: what was read from the original, transformed layers as their parts.
        coverage: what is quantized of it.
        watch: seconds by stage.
        correction: of its noise predictions, or None.
        measured: what was measured for it, by time step, as plain JSON data.
    """

    module: nn.Module
    blueprint: Blueprint
    clock: Clock
    graph: DenoiserGraph
    coverage: Coverage
    watch: Stopwatch
    correction: CorrectionTables | None = None
    measured: dict[str, Any] | None = None

    @classmethod
    def of(cls, state: JobState) -> "Quantized":
        """What a job has made once all of its stages are run."""
        reading, graph = state.reading, state.reading.graph
        structure = graph.time_argument, graph.shared, graph.projections, reading.products, reading.transforms
        return cls(
            module=state.module,
            blueprint=Blueprint(state.recipe, *structure),
            clock=state.clock,
            graph=graph,
            coverage=state.coverage,
            watch=state.watch,
            correction=state.correction,
            measured=state.measured,
        )


def stages_of(recipe: Recipe) -> list[Stage]:
    """The stages that ``recipe`` asks for, in order.

    Raises:
        InputError: see :func:`tempoquant.stages.ordered`.
    """
    stages = [
        Read(),
        Record(),
        Transform(),
        TemporalFeatures(),
        Units(),
        Activations(),
        ActivationSteps(),
        CachedFeatures(),
        Tuning(),
        Correction(),
    ]
    return ordered(stages, recipe)


def run_job(
    model: Model,
    recipe: Recipe,
    folders: WorkFolders,
    progress: Progress,
    conditioning: Mapping[str, Any] | None = None,
    effort: Effort | None = None,
) -> Quantized:
    """Quantize a copy of ``model``'s denoiser.

    Args:
        model: in full precision.
        recipe: how.
        folders: of unfinished work, which is continued where it is of the same settings.
        progress: shows what goes on.
        conditioning: of the recipe's calibration samples, as ``model.generate`` takes it.
        effort: settings of reconstruction instead of the recipe's; finished units do not depend on it.
    """
    state = JobState(model, recipe, folders, progress, conditioning, effort)
    run_stages(stages_of(recipe), state)
    return Quantized.of(state)


def full_precision(model: Any) -> Model:
    """The model that ``model`` names, in float32, to be quantized; see :func:`~tempoquant.pipelines.resolve`.

    Raises:
        InputError: there is no such model, or it is quantized already.
    """
    resolved = resolve(model)
    if quantized_layers(resolved.denoiser.module):
        raise InputError(f"{resolved.name} is quantized already: quantize the full-precision model it was made from")
    return in_float32(resolved)
