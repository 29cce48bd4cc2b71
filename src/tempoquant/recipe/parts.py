"""The parts of a recipe that decide what is quantized, on which grid, from which data."""

import re
from fnmatch import fnmatchcase
from typing import Annotated, Literal

from pydantic import AfterValidator, Field, ValidationInfo, field_validator, model_validator

from tempoquant.errors import unknown
from tempoquant.extension import ACTIVATION_RANGES, PROVIDERS, WEIGHT_RANGES, WEIGHT_ROUNDINGS, is_foreign
from tempoquant.numerics.spec import (
    GROUP_SIZES,
    Constant,
    Generated,
    PerChannel,
    PerGroup,
    PerStep,
    PerTensor,
    PerToken,
    QuantSpec,
    Registered,
    Schedule,
    StepGroups,
)
from tempoquant.recipe.basics import FLOAT_BITS, Count, Part, check_bits, registered

ROLES = re.compile(r"@(first|second|last|shortcut|strided|temporal|shared\[\d+\])")


class Matching(Part):
    """A choice of layers.

    ``match`` is a pattern of layer names (``*`` and ``?``), or a role: ``@first`` and ``@last`` (image layers in order
    of execution), ``@second``, ``@shared[0]`` (the temporal block's h, in order), ``@temporal`` (all layers that see
    only the time step), ``@strided`` (downsampling) and ``@shortcut`` (by name, as the public codes do). A role that a
    denoiser lacks is no error; a pattern is.
    """

    match: str

    @field_validator("match")
    @classmethod
    def _known_role(cls, match: str) -> str:
        if match.startswith("@") and not ROLES.fullmatch(match):
            raise ValueError("valid roles: @first, @second, @last, @shortcut, @strided, @temporal, @shared[0], ...")
        return match

    @property
    def is_role(self) -> bool:
        """Whether ``match`` is a role."""
        return self.match.startswith("@")

    def matches(self, name: str, roles: frozenset[str]) -> bool:
        """Whether a layer of this name, and with these roles, is chosen."""
        return self.match in roles if self.is_role else fnmatchcase(name, self.match)


class Override(Matching):
    """Bits for some layers, overriding the recipe's."""

    weight_bits: int | None = None
    activation_bits: int | None = None

    _bits = field_validator("weight_bits", "activation_bits")(check_bits)


class Rotation(Matching):
    """Rotation of the input channels of layers that see the sample, before they are rounded (ConvRot).

    Attributes:
        group: channels that are mixed; a layer whose channels it does not divide stays as it is.
    """

    kind: Literal["rotate"]
    group: Literal[4, 16, 64, 256] = 64
    match: str = "*"


class Weights(Part):
    """Weight quantization. ``symmetric`` unset: symmetric at 8 bits and more, asymmetric below.

    ``split_shortcuts``: a layer whose input is two tensors side by side gets a grid for each (Q-Diffusion).
    ``fit_bias``: every layer's bias takes off the mean error of its output on the recorded inputs, and its weight is
    rounded for the inputs' deviations from their mean alone. Temporal layers keep theirs.
    ``group_size``: a scale for every so many consecutive inputs of an output channel; unset: one an output channel.
    """

    bits: int = 4
    group_size: int | None = Field(None, exclude_if=lambda size: size is None)
    symmetric: bool | None = None
    range: Annotated[str, registered(WEIGHT_RANGES)] = "mse"
    rounding: Annotated[str, registered(WEIGHT_ROUNDINGS)] = "reconstruct"
    split_shortcuts: bool = False
    fit_bias: bool = False

    _bits = field_validator("bits")(check_bits)

    @field_validator("group_size")
    @classmethod
    def _is_group_size(cls, size: int | None) -> int | None:
        if size is not None and size not in GROUP_SIZES:
            nearest = min(GROUP_SIZES, key=lambda valid: abs(valid - size))
            sizes = ", ".join(map(str, GROUP_SIZES))
            raise ValueError(f"groups are of {sizes} input channels; the nearest is {nearest}")
        return size

    @model_validator(mode="after")
    def _supported(self) -> "Weights":
        if self.group_size is not None and self.bits == FLOAT_BITS:
            raise ValueError(f"group_size = {self.group_size} needs quantized weights: bits is {FLOAT_BITS} (float)")
        if self.bits != FLOAT_BITS:
            self.spec()
        return self

    def spec(self, bits: int | None = None) -> QuantSpec:
        """What quantizes a weight.

        Args:
            bits: of a layer whose width is not the recipe's.

        Raises:
            InputError: not supported; the message names the nearest that is.
        """
        bits = self.bits if bits is None else bits
        granularity = PerChannel() if self.group_size is None else PerGroup(self.group_size)
        return QuantSpec("int", bits, self.is_symmetric(bits), granularity)

    def is_symmetric(self, bits: int) -> bool:
        """Whether a weight of ``bits`` bits has a symmetric grid."""
        return bits >= 8 if self.symmetric is None else self.symmetric


STEPS = ("constant", "per-step", "groups", "generator")


def _check_steps(name: str, info: ValidationInfo) -> str:
    """One of :data:`STEPS`, or the provider kind of a plugin, which a stored recipe does without until it runs."""
    kinds = [kind for kind, provider in PROVIDERS.items() if is_foreign(provider)]
    if name not in (*STEPS, *kinds) and not (info.context or {}).get("stored"):
        raise unknown("schedule", name, (*STEPS, *kinds))
    return name


class Activations(Part):
    """Activation quantization of image-dependent layers: how a range is chosen, and whether it moves with the step.

    Attributes:
        symmetric: zero points in the middle of the grid (softmax outputs stay unsigned).
        steps: one interval; one a time step; one for each of ``groups`` equal runs of training time steps; or those of
            a network of the time step, which must learn (``generator``: TDQ's, or its thin one); or the provider kind
            that a plugin registered under this name.
        keep_generators: keep the networks beside the tables that they became, for other schedules.
        granularity: one scale a tensor, or one a token of the inputs of Linear layers (all axes but the last), and of
            q, k and the softmax output where scales are dynamic; all other inputs have one a tensor.
        dynamic: scales are computed from the input, one an item or token, instead of calibrated.
        learn: learn the step sizes of each unit against its full-precision output, zero points fixed.
        learn_inputs: what a unit sees while its step sizes learn: the output of the units quantized before it, or the
            full-precision network's (as the public codes do).
    """

    bits: int = 8
    symmetric: bool = False
    range: Annotated[str, registered(ACTIVATION_RANGES)] = "minmax"
    steps: Annotated[str, AfterValidator(_check_steps)] = "constant"
    groups: Count = 4
    generator: Literal["tdq", "thin"] = "tdq"
    # Left out where it says nothing: runs begun, and folders made, before there was such an entry are of equal recipes.
    keep_generators: bool = Field(False, exclude_if=lambda keep: not keep)
    granularity: Literal["per-tensor", "per-token"] = Field("per-tensor", exclude_if=lambda name: name == "per-tensor")
    dynamic: bool = Field(False, exclude_if=lambda dynamic: not dynamic)
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

    @model_validator(mode="after")
    def _supported(self) -> "Activations":
        apart = [f"dynamic = {self.dynamic}"] * self.dynamic
        apart += [f"granularity = {self.granularity!r}"] * (self.granularity != "per-tensor")
        if not apart:
            return self
        if self.bits == FLOAT_BITS:
            raise ValueError(f"{apart[0]} needs quantized activations: bits is {FLOAT_BITS} (float)")
        if self.learn:
            raise ValueError(f"{apart[0]} has no step sizes that learn: leave out learn")
        if self.range != "minmax":
            raise ValueError(f"{apart[0]} takes least and greatest values: range = {self.range!r} would be void")
        self.spec()
        return self

    @property
    def schedule(self) -> Schedule:
        """``steps`` with the entries that belong to it."""
        schedules: dict[str, Schedule] = {
            "constant": Constant(),
            "per-step": PerStep(),
            "groups": StepGroups(self.groups),
            "generator": Generated(self.generator),
        }
        return schedules.get(self.steps, Registered(self.steps))

    def spec(self, bits: int | None = None, *, tokens: bool = True) -> QuantSpec:
        """What quantizes an activation.

        Args:
            bits: of a layer whose width is not the recipe's.
            tokens: whether it consists of tokens: inputs of convolutions do not, and have one scale a tensor.

        Raises:
            InputError: not supported; the message names the nearest that is.
        """
        granularity = PerToken() if tokens and self.granularity == "per-token" else PerTensor()
        width = self.bits if bits is None else bits
        return QuantSpec("int", width, self.symmetric, granularity, self.schedule, self.dynamic)


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
