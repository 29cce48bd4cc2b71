"""How to quantize, as data: validated, versioned, the same in YAML, JSON and Python. Methods are known by name only."""

import re
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    ValidationError,
    ValidationInfo,
    field_validator,
    model_validator,
)

from tempoquant.errors import InputError
from tempoquant.extension import ACTIVATION_RANGES, WEIGHT_RANGES, WEIGHT_ROUNDINGS, Registry

FLOAT_BITS = 32
WIDTHS = (2, 3, 4, 5, 6, 7, 8, 16, FLOAT_BITS)
ROLES = re.compile(r"@(first|second|last|shortcut|strided|temporal|shared\[\d+\])")


class Part(BaseModel):
    """Base of all recipe parts: frozen, unknown keys refused."""

    model_config = ConfigDict(extra="forbid", frozen=True)


def _check_bits(bits: int | None) -> int | None:
    if bits is not None and bits not in WIDTHS:
        raise ValueError(f"bits = {bits} is not supported: valid are 2 to 8, 16, and 32 for float")
    return bits


def _registered(registry: Registry) -> AfterValidator:
    """A name of ``registry``. One read from a quantized folder may be unknown: its function's work is done."""

    def check(name: str, info: ValidationInfo) -> str:
        return name if (info.context or {}).get("stored") else registry.check(name)

    return AfterValidator(check)


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

    _bits = field_validator("weight_bits", "activation_bits")(_check_bits)

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
    range: Annotated[str, _registered(WEIGHT_RANGES)] = "mse"
    rounding: Annotated[str, _registered(WEIGHT_ROUNDINGS)] = "reconstruct"
    split_shortcuts: bool = False
    fit_bias: bool = False

    _bits = field_validator("bits")(_check_bits)


class Activations(Part):
    """Activation quantization of image-dependent layers: how a range is chosen, and whether it moves with the step.

    Attributes:
        symmetric: zero points in the middle of the grid (softmax outputs stay unsigned).
        steps: one interval; one a time step; one for each of ``groups`` equal runs of training time steps; or those of
            a network of the time step, which must learn (``generator``: TDQ's, or its thin one).
        learn: learn the step sizes of each unit against its full-precision output, zero points fixed.
        learn_inputs: what a unit sees while its step sizes learn: the output of the units quantized before it, or the
            full-precision network's (as the public codes do).
    """

    bits: int = 8
    symmetric: bool = False
    range: Annotated[str, _registered(ACTIVATION_RANGES)] = "minmax"
    steps: Literal["constant", "per-step", "groups", "generator"] = "constant"
    groups: int = Field(4, ge=1)
    generator: Literal["tdq", "thin"] = "tdq"
    learn: bool = False
    learn_inputs: Literal["quantized", "full-precision"] = "quantized"

    _bits = field_validator("bits")(_check_bits)

    @model_validator(mode="after")
    def _generators_learn(self) -> "Activations":
        if self.steps == "generator" and not self.learn:
            raise ValueError("steps = 'generator' needs learn = true")
        return self


class Attention(Part):
    """Quantization of the attention products q k^T and softmax v."""

    quantize: bool = True
    softmax_bits: int = 8

    _bits = field_validator("softmax_bits")(_check_bits)


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

    samples: int = Field(64, ge=1)
    steps: int = Field(50, ge=1)
    sampler: str | None = None
    eta: float = Field(0.0, ge=0, le=1)
    rows: int = Field(128, ge=1)
    rows_per_step: int = Field(8, ge=1)
    step_choice: Literal["uniform", "skewed-normal"] = "uniform"
    step_mean: float = Field(0.4, ge=0, le=0.5)
    step_std: float = Field(0.4, gt=0, le=10)
    dtype: Literal["float16", "float32"] = "float16"


class Correction(Part):
    """What acts while sampling, measured once the denoiser is quantized (PTQD).

    Attributes:
        kind: ``correlated`` divides the predicted noise by 1 + k, k from the regression of the quantization noise on
            it, and takes the bias off; ``mmse`` multiplies it by the least-squares factor of its channel; ``none``
            leaves it.
        variance: whether stochastic samplers add less noise by what quantization left; unset: with ``correlated``.
        samples: trajectories it is measured on, at most the calibration's number, of noise that calibrated nothing.
        step_bits: candidate widths of the activations, from which each step takes the smallest that its own noise
            allows; none: the recipe's width at every step.
    """

    kind: Literal["correlated", "mmse", "none"] = "correlated"
    variance: bool | None = None
    samples: int = Field(16, ge=1)
    step_bits: tuple[int, ...] = ()

    @field_validator("variance")
    @classmethod
    def _derived(cls, variance: bool | None, info: ValidationInfo) -> bool | None:
        if variance and info.data.get("kind") != "correlated":
            raise ValueError("the variance of the noise is known for kind = 'correlated' alone")
        return variance

    @field_validator("step_bits")
    @classmethod
    def _ascending(cls, widths: tuple[int, ...]) -> tuple[int, ...]:
        if list(widths) != sorted(set(widths)) or any(b not in WIDTHS or b == FLOAT_BITS for b in widths):
            raise ValueError("step-wise widths are different ones of 2 to 8 and 16, in ascending order")
        return widths

    @property
    def reduces_noise(self) -> bool:
        """``variance``, decided."""
        return self.kind == "correlated" if self.variance is None else self.variance


class Training(Part):
    """Quantization-aware training; what it trains on is not part of the recipe.

    Attributes:
        scheme: the quantizers. steps, batch, accumulate: of the optimizer, samples a step, in so many parts.
        lr: of weights and of interval networks. step_lr: of step sizes and offsets, a share of ``lr``.
        weight_decay: of weights and interval networks. warm_up: steps until ``lr`` is reached.
        schedule: of ``lr`` from there: along a half cosine to 0, or none.
        ema: decay of the average of all that is trained, which is what is kept.
        loss: "l2" or "l1" of the prediction. autocast: the type that layers compute in, float32 if unset.
        lora: rank of what is added to frozen weights before they are rounded; unset: the weights themselves train.
        encoding, initialization: of interval networks.
        sees: what intervals are made from: the time step ("time"), or, for comparison, the input's own "range", or a
            network of its "statistics", or of "statistics+time".
    """

    scheme: Literal["lsq", "lsq+", "pact", "nipq", "duq", "qil"] = "lsq"
    steps: int = Field(1000, ge=1)
    batch: int = Field(64, ge=1)
    accumulate: int = Field(1, ge=1)
    lr: float = Field(2e-4, gt=0)
    step_lr: float = Field(0.1, gt=0)
    weight_decay: float = Field(0.01, ge=0)
    warm_up: int = Field(100, ge=0)
    schedule: Literal["cosine", "constant"] = "cosine"
    ema: float = Field(0.999, ge=0, lt=1)
    loss: Literal["l2", "l1"] = "l2"
    autocast: Literal["bfloat16"] | None = None
    lora: int | None = Field(None, ge=1)
    encoding: Literal["frequency", "none", "normalized", "fourier"] = "frequency"
    initialization: Literal["he", "xavier", "zero", "gaussian"] = "he"
    sees: Literal["time", "range", "statistics", "statistics+time"] = "time"

    @model_validator(mode="after")
    def _parts(self) -> "Training":
        if self.batch % self.accumulate:
            raise ValueError(f"batch = {self.batch} cannot be done in accumulate = {self.accumulate} equal parts")
        return self


class Tuning(Part):
    """Global tuning of everything that is not integers against full precision's predicted noise, at the end.

    Attributes:
        iterations: of Adam. batch: recorded inputs an iteration sees. lr: the step size at the start, as a share of
            each tensor's mean magnitude; it falls to 0 along a cosine.
    """

    iterations: int = Field(100, ge=1)
    batch: int = Field(8, ge=1)
    lr: float = Field(1e-3, gt=0, le=1)


class Recipe(Part):
    """Everything that decides a quantized model, next to the model itself."""

    version: Literal[1] = 1
    method: str
    reading: Literal["paper", "released"] = "paper"
    effort: Literal["fast", "balanced", "paper"] = "fast"
    weights: Weights = Weights()
    activations: Activations = Activations()
    attention: Attention = Attention()
    temporal: Temporal = Temporal()
    calibration: Calibration = Field(default_factory=lambda: Calibration.model_validate({}))
    policy: tuple[Override, ...] = ()
    tuning: Tuning | None = None
    correction: Correction | None = None
    training: Training | None = None
    seed: int = 0

    @model_validator(mode="after")
    def _ranges_of_every_step(self) -> "Recipe":
        if self.calibration.step_choice != "uniform" and self.activations.steps == "per-step":
            raise ValueError(
                f"calibration.step_choice = {self.calibration.step_choice!r} may leave steps out: "
                "activations.steps = 'per-step' needs 'uniform'"
            )
        return self

    @field_validator("correction")
    @classmethod
    def _has_bits_to_step(cls, correction: Correction | None, info: ValidationInfo) -> Correction | None:
        activations = info.data.get("activations")
        if correction is not None and correction.step_bits and activations and activations.bits == FLOAT_BITS:
            raise ValueError("step-wise widths need quantized activations: activations.bits is 32 (float)")
        return correction

    def with_activation_bits(self, bits: int) -> "Recipe":
        """The same recipe at another activation width."""
        return self.model_copy(update={"activations": self.activations.model_copy(update={"bits": bits})})

    @property
    def name(self) -> str:
        """Short name for tables, e.g. ``tfmq-dm W4A8`` or ``ptqd W4A8 + correlated correction``."""
        plain = f"{self.method} W{self.weights.bits}A{self.activations.bits}"
        if self.correction is None:
            return plain
        kind = self.correction.kind
        return f"{plain} + {'step-wise bits' if kind == 'none' else f'{kind} correction'}"

    def bits_of(self, name: str, roles: frozenset[str] = frozenset()) -> tuple[int, int]:
        """Weight and activation bits of a layer: the last matching override wins."""
        weight, activation = self.weights.bits, self.activations.bits
        for override in self.policy:
            if override.matches(name, roles):
                weight = override.weight_bits or weight
                activation = override.activation_bits or activation
        return weight, activation

    def symmetric(self, bits: int) -> bool:
        """Whether a weight of ``bits`` bits has a symmetric grid."""
        return bits >= 8 if self.weights.symmetric is None else self.weights.symmetric

    @classmethod
    def parse(cls, data: dict[str, Any], *, stored: bool = False) -> "Recipe":
        """A recipe from plain data.

        Args:
            stored: of a quantized folder, which needs none of the functions that made it.

        Raises:
            InputError: one line that names the first wrong entry.
        """
        try:
            return cls.model_validate(data, context={"stored": stored})
        except ValidationError as error:
            first = error.errors()[0]
            where = ".".join(str(part) for part in first["loc"]) or "recipe"
            message = first["msg"].removeprefix("Value error, ")
            raise InputError(f"recipe: {where} = {first.get('input')!r}: {message}") from None

    @classmethod
    def from_file(cls, path: Path | str) -> "Recipe":
        """Read a recipe from a YAML or JSON file."""
        try:
            data = yaml.safe_load(Path(path).read_text())
        except (OSError, yaml.YAMLError) as error:
            raise InputError(f"recipe file {str(path)!r} cannot be read: {str(error).splitlines()[0]}") from None
        if not isinstance(data, dict):
            raise InputError(f"recipe file {str(path)!r} holds no mapping of recipe keys")
        return cls.parse(data)

    def to_file(self, path: Path | str) -> None:
        """Write the recipe as YAML."""
        Path(path).write_text(yaml.safe_dump(self.model_dump(mode="json"), sort_keys=False))
