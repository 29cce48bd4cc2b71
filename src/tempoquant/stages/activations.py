"""Calibrating activations: every quantized input and attention operand gets its quantization parameters."""

from tempoquant.calibration import RecordedInputs, calibrate_activations
from tempoquant.layers import QuantizedLayer
from tempoquant.recipe import FLOAT_BITS, Recipe
from tempoquant.stages.stage import Stage
from tempoquant.stages.state import JobState
from tempoquant.temporal import finite_set_calibration


class Activations(Stage):
    """Calibrates the inputs of temporal layers on their finite set, then all others on recorded inputs."""

    name = "activations"
    needs = ("weights", "temporal", "store", "clock", "denoiser", "attention")

    def run(self, state: JobState) -> None:
        """See :class:`Stage`."""
        layers = state.layers
        if not in_blocks(state.recipe):
            _calibrate_temporal_layers(state)
            layers = {name: layer for name, layer in layers.items() if not state.plans[name].temporal}
        calibrate_layers(state, layers)


def in_blocks(recipe: Recipe) -> bool:
    """Whether the inputs of temporal layers are calibrated like those of the blocks that they belong to."""
    return recipe.temporal.calibration == "block"


def calibrate_layers(state: JobState, layers: dict[str, QuantizedLayer]) -> None:
    """Calibrate these layers and all attention products on recorded inputs.

    Args:
        state: with denoiser, plans, attention, store and clock.
        layers: by name.
    """
    inputs = RecordedInputs(
        state.denoiser, state.store, state.clock, state.recipe, state.train_timesteps, state.progress
    )
    calibrate_activations(inputs, layers, state.plans, state.attention)


def _calibrate_temporal_layers(state: JobState) -> None:
    temporal, program = state.temporal, state.temporal.program
    bits = {name: state.plans[name].activation_bits for name in program.layers if name in state.layers}
    finite_set_calibration(
        program,
        temporal.externals,
        temporal.rows,
        state.clock,
        layers={name: state.module.get_submodule(name) for name in program.layers},
        bits={name: width for name, width in bits.items() if width != FLOAT_BITS},
        per_step=state.recipe.temporal.calibration == "finite-set",
    )
