"""The parts of a recipe that decide what is quantized, on which grid, from which data."""

import re
from fnmatch import fnmatchcase
from typing import Annotated, Literal

from pydantic import Field, field_validator, model_validator

from tempoquant.extension import ACTIVATION_RANGES, WEIGHT_RANGES, WEIGHT_ROUNDINGS
from tempoquant.recipe.basics import Count, Part, check_bits, registered

ROLES = re.compile(r"@(first|second|last|shortcut|strided|temporal|shared\[\d+\])")


class Override(Part):
    """Bits for some layers, overriding the recipe's.

    ``match`` is a pattern of layer names (``*`` and ``?``), or a role: ``@first`` and ``@last`` (image layers in order
    of execution), ``@second``, ``@shared[0]`` (the temporal block's h, in order), ``@temporal`` (all layers that see
    only the time step), ``@strided`` (downsampling) and ``@shortcut`` (by name, as the public codes do). A role that a
    denoiser lacks is no error; a pattern is.
    """

    match: str
    weight_bits: int | None = None
    activation_bits: int | None = None

    _bits = field_validator("weight_bits", "activation_bits")(check_bits)

    @field_validator("match")
    @classmethod
    def _known_role(cls, match: str) -> str:
        if match.startswith("@") and not ROLES.fullmatch(match):
            raise ValueError("valid roles: @first, @second, @last, @shortcut, @strided, @temporal, @shared[0], ...")
        return match

    def matches(self, name: str, roles: frozenset[str]) -> bool:
        return self.match in roles if self.match.startswith("@") else fnmatchcase(name, self.match)


class Weights(Part):
    """Weight quantization. ``symmetric`` unset: symmetric at 8 bits and more, asymmetric below.

    ``split_shortcuts``: a layer whose input is two tensors side by side gets a grid for each (Q-Diffusion).
    ``fit_bias``: every layer's bias takes off the mean error of its output on the recorded inputs, and its weight is
    rounded for the inputs' deviations from their mean alone. Temporal layers keep theirs.
    """

    bits: int = 4
    symmetric: bool | None = None
    range: Annotated[str, registered(WEIGHT_RANGES)] = "mse"
    rounding: Annotated[str, registered(WEIGHT_ROUNDINGS)] = "reconstruct"
    split_shortcuts: bool = False
    fit_bias: bool = False

    _bits = field_validator("bits")(check_bits)


class Activations(Part):
    """Activation quantization of image-dependent layers: how a range is chosen, and whether it moves with the step.

    Attributes:
        symmetric: zero points in the middle of the grid (softmax outputs stay unsigned).
        steps: one interval; one a time step; one for each of ``groups`` equal runs of training time steps; or those of
            a network of the time step, which must learn (``generator``: TDQ's, or its thin one).
        keep_generators: keep the networks beside the tables that they became, for other schedules.
        learn: learn the step sizes of each unit against its full-precision output, zero points fixed.
        learn_inputs: what a unit sees while its step sizes learn: the output of the units quantized before it, or the
            full-precision network's (as the public codes do).
    """

    bits: int = 8
    symmetric: bool = False
    range: Annotated[str, registered(ACTIVATION_RANGES)] = "minmax"
    steps: Literal["constant", "per-step", "groups", "generator"] = "constant"
    groups: Count = 4
    generator: Literal["tdq", "thin"] = "tdq"
    # Left out where it says nothing: runs begun, and folders made, before there was such an entry are of equal recipes.
    keep_generators: bool = Field(False, exclude_if=lambda keep: not keep)
    learn: bool = False
    learn_inputs: Literal["quantized", "full-precision"] = "quantized"

    _bits = field_validator("bits")(check_bits)

    @model_validator(mode="after")
    def _generators_learn(self) -> "Activations":
        if self.steps == "generator" and not self.learn:
            raise ValueError("steps = 'generator' needs learn = true")
        if self.keep_generators and self.steps != "generator":
            raise ValueError(f"keep_generators needs steps = 'generator': there are none with {self.steps!r}")
        return self


class Attention(Part):
    """Quantization of the attention products q k^T and softmax v."""

    quantize: bool = True
    softmax_bits: int = 8

    _bits = field_validator("softmax_bits")(check_bits)


class Temporal(Part):
    """What is done for the layers that see only the time step.

    ``reconstruction``: ``tiar`` against their own outputs, ``block`` inside the blocks they belong to (the papers'
    "Prev"), ``nearest`` (their "Freeze"). ``calibration``: ``finite-set`` gives one exact interval a step,
    ``constant`` one for all, ``block`` whatever the other activations of the blocks they belong to get. ``cache``
    stores what they put out at every step, and looks it up instead of computing it: the full-precision features or the
    quantized layers' own; ``always``, or for each projection that has the least error so, or (``time-alone``) only in
    denoisers whose features follow nothing but the time step, as if unset in others.
    """

    reconstruction: Literal["tiar", "block", "nearest"] = "tiar"
    calibration: Literal["finite-set", "constant", "block"] = "finite-set"
    cache: Literal["float16", "int8"] | None = None
    cache_choice: Literal["always", "least-error", "time-alone"] = "always"
    cache_features: Literal["full-precision", "quantized"] = "full-precision"

    @property
    def never_runs(self) -> bool:
        """Whether the temporal layers need no quantization: nothing that they compute is used."""
        all_of_them = self.cache is not None and self.cache_choice != "least-error"
        return all_of_them and self.cache_features == "full-precision"


class Calibration(Part):
    """The recording and how much of it each stage reads.

    Attributes:
        samples: recorded trajectories. steps, sampler, eta: the schedule they follow.
        rows: recorded inputs that weights are reconstructed on.
        rows_per_step: recorded inputs of every step that activation ranges are read from.
        step_choice: which steps these inputs are of: all alike, or steps drawn around ``step_mean`` with spread
            ``step_std``, both as shares of the schedule counted from its cleanest step.
        dtype: storage of the recording.
    """

    samples: Count = 64
    steps: Count = 50
    sampler: str | None = None
    eta: float = Field(0.0, ge=0, le=1)
    rows: Count = 128
    rows_per_step: Count = 8
    step_choice: Literal["uniform", "skewed-normal"] = "uniform"
    step_mean: float = Field(0.4, ge=0, le=0.5)
    step_std: float = Field(0.4, gt=0, le=10)
    dtype: Literal["float16", "float32"] = "float16"
