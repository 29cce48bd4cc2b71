"""What a job starts from, and what its stages have set so far."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from tempoquant.correction import CorrectionTables
from tempoquant.graph import Probe
from tempoquant.intervals import Clock
from tempoquant.layers import AttentionProducts, QuantizedLayer
from tempoquant.pipelines import Model
from tempoquant.planning import Coverage, LayerPlan, Reading
from tempoquant.progress import Progress
from tempoquant.recipe import Recipe
from tempoquant.reconstruction import Effort, UnitCache, WeightState
from tempoquant.reconstruction import effort as named_effort
from tempoquant.recording import Store
from tempoquant.sampling import Denoiser
from tempoquant.stopwatch import Stopwatch
from tempoquant.temporal import TemporalProgram
from tempoquant.training import Trainee


@dataclass(frozen=True)
class WorkFolders:
    """Folders in which stages keep unfinished work.

    Attributes:
        work: the folder of the job.
        recording: of recorded trajectories, where other jobs share them.
        units: of finished weights, where other jobs share them.
    """

    work: Path
    recording: Path | None = None
    units: Path | None = None

    def of(self, kept: str) -> Path:
        """The folder of the work called ``kept``, see :attr:`tempoquant.stages.Stage.keeps`."""
        shared = {"recording": self.recording, "units": self.units}
        return shared.get(kept) or self.work / kept


@dataclass(frozen=True)
class TemporalInputs:
    """What calibrates the temporal information block.

    Attributes:
        program: the block as a function of its external inputs.
        externals: these inputs at every time step, (N, ...) each.
        rows: (N,) the clock's row of each.
    """

    program: TemporalProgram
    externals: dict[str, Tensor]
    rows: Tensor


@dataclass(repr=False)
class JobState:
    """What a job starts from, and what its stages have set so far; reading what none has set is an AttributeError.

    Attributes:
        model: in full precision; never changed.
        recipe: how to quantize; once the denoiser is read, with what it leaves to the denoiser decided.
        folders: of unfinished work.
        progress: shows what goes on.
        conditioning: of the recipe's calibration samples, as ``model.generate`` takes it.
        effort: settings of reconstruction instead of the recipe's.
        watch: seconds by stage.
        probe: how the graph reader runs the model.
        reading: the graph of the model, and what happens to each layer.
        coverage: how much of it is quantized.
        store: recorded trajectories of the model.
        clock: the time steps of the recording, and the current one.
        plans: what happens to each layer, by name.
        denoiser: a copy of the model's, quantized in place.
        layers: its quantizable layers by name.
        attention: its attention products by owner.
        temporal: inputs of the temporal information block.
        weights: what rounding of the weights reads and changes.
        trainee: the denoiser while it trains.
        correction: of the noise predictions while sampling, or None.
        measured: what was measured for it, by time step, as plain JSON data.
    """

    model: Model
    recipe: Recipe
    folders: WorkFolders
    progress: Progress
    conditioning: Mapping[str, Any] | None = None
    effort: Effort | None = None
    watch: Stopwatch = field(default_factory=Stopwatch)
    probe: Probe = field(init=False)
    reading: Reading = field(init=False)
    coverage: Coverage = field(init=False)
    store: Store = field(init=False)
    clock: Clock = field(init=False)
    plans: dict[str, LayerPlan] = field(init=False)
    denoiser: Denoiser = field(init=False)
    layers: dict[str, QuantizedLayer] = field(init=False)
    attention: dict[str, AttentionProducts] = field(init=False)
    temporal: TemporalInputs = field(init=False)
    weights: WeightState = field(init=False)
    trainee: Trainee = field(init=False)
    correction: CorrectionTables | None = None
    measured: dict[str, Any] | None = None

    @property
    def module(self) -> nn.Module:
        """The network that is quantized in place."""
        return self.denoiser.module

    @property
    def settings(self) -> Effort:
        """Settings of reconstruction."""
        return self.effort or named_effort(self.recipe.effort)

    @property
    def train_timesteps(self) -> int:
        """T, the length of the training schedule."""
        return int(self.model.denoiser.scheduler.config.num_train_timesteps)

    def cache(self, kept: str) -> UnitCache:
        """Finished work that the whole recipe and the recording decide, in the folder called ``kept``.

        Raises:
            InputError: the folder holds the work of another recipe, or something else.
        """
        identity = {"recipe": self.recipe.model_dump(mode="json"), "recording": self.store.request}
        return UnitCache(self.folders.of(kept), identity)
