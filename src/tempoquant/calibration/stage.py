"""The activation stage from a recipe: every quantized activation gets its interval, and its step size may learn."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from tempoquant.calibration.activations import calibrate_activations
from tempoquant.intervals import Clock
from tempoquant.layers import AttentionProducts
from tempoquant.recipe import FLOAT_BITS, Recipe
from tempoquant.reconstruction import (
    StepStage,
    Tuner,
    UnitCache,
    WeightStage,
    learn_activation_steps,
    stage_units,
    two_streams,
)
from tempoquant.recording import Store
from tempoquant.sampling import Denoiser
from tempoquant.temporal import TemporalProgram, finite_set_calibration


@dataclass
class ActivationStage:
    """Everything that the activation stage reads and changes.

    Attributes:
        weights: the weight stage. attention: watched products by owner. clock: of the module. store: the recording.
        denoiser: the module being quantized, wrapped.
    """

    weights: WeightStage
    attention: Mapping[str, AttentionProducts]
    clock: Clock
    store: Store
    denoiser: Denoiser

    @property
    def train_timesteps(self) -> int:
        """T, the length of the training schedule."""
        return int(self.denoiser.scheduler.config.num_train_timesteps)

    def cache(self, folder: Path) -> UnitCache:
        """Work of a stage that everything in the recipe decides."""
        identity: dict[str, Any] = {"recipe": self.weights.recipe.model_dump(mode="json")}
        return UnitCache(folder, identity | {"recording": self.store.request})


def calibrate(stage: ActivationStage, program: TemporalProgram, externals: dict[str, Tensor], rows: Tensor) -> None:
    """Give every quantized activation its interval: temporal layers first, all others on recorded inputs.

    Args:
        program: the temporal information block. externals: its recorded inputs. rows: the clock's row of each.
    """
    weights, recipe = stage.weights, stage.weights.recipe
    if not in_blocks(recipe):
        layers = {n: weights.module.get_submodule(n) for n in program.layers}
        bits = {n: weights.plans[n].activation_bits for n in program.layers if n in weights.layers}
        wanted = {n: b for n, b in bits.items() if b != FLOAT_BITS}
        per_step = recipe.temporal.calibration == "finite-set"
        finite_set_calibration(program, externals, rows, stage.clock, layers, wanted, per_step)
    others = {n: layer for n, layer in weights.layers.items() if not weights.plans[n].temporal or in_blocks(recipe)}
    calibrate_activations(
        stage.denoiser,
        stage.store,
        stage.clock,
        others,
        weights.plans,
        stage.attention,
        recipe,
        stage.train_timesteps,
        weights.progress,
    )


def learn_steps(stage: ActivationStage, folder: Path) -> None:
    """Learn the step sizes of every unit; those of finished units are kept in ``folder``."""
    weights = stage.weights
    learning = StepStage(weights, stage.attention, stage.clock, stage.train_timesteps, stage.cache(folder))
    units = stage_units(weights, weights.recipe.temporal.calibration)
    learn_activation_steps(learning, units, *two_streams(weights, stage.denoiser, stage.store))


def tune(stage: ActivationStage, full: Denoiser, folder: Path) -> None:
    """Tune the denoiser as a whole against ``full``; unfinished work is kept in ``folder``."""
    recipe = stage.weights.recipe
    assert recipe.tuning is not None
    cache, progress = stage.cache(folder), stage.weights.progress
    Tuner(stage.denoiser, full, stage.store, recipe.tuning, recipe.seed, cache, progress).run()


def first_call(stage: ActivationStage) -> Tensor:
    """What the denoiser makes of the first recorded input."""
    first = torch.zeros(1, dtype=torch.long)
    sample, timestep, conditioning = stage.store.read(first, first)
    return stage.denoiser(sample, timestep, **conditioning)


def in_blocks(recipe: Recipe) -> bool:
    """Whether activations of temporal layers are calibrated like those of the blocks they belong to."""
    return recipe.temporal.calibration == "block"
