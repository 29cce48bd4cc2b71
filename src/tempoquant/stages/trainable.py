"""Making a copy of the denoiser trainable, its quantizers where calibration on the recording puts them."""

from tempoquant.errors import InputError
from tempoquant.stages.activations import calibrate_layers
from tempoquant.stages.stage import Stage
from tempoquant.stages.state import JobState
from tempoquant.training import make_trainable


class Trainable(Stage):
    """Calibrates all activations with the weights still float, then lets weights and quantizers learn."""

    # What timings called it from the beginning.
    name = "activations"
    needs = ("plans", "store", "clock", "denoiser", "layers", "attention")
    gives = ("trainee",)

    def run(self, state: JobState) -> None:
        """See :class:`Stage`.

        Raises:
            InputError: the recipe quantizes no layer.
        """
        if not state.layers:
            raise InputError(f"{state.recipe.name} quantizes no layer of this denoiser: nothing would train")
        calibrate_layers(state, state.layers)
        state.trainee = make_trainable(
            state.module,
            state.layers,
            state.attention,
            state.plans,
            state.clock,
            state.recipe,
            state.train_timesteps,
        )
