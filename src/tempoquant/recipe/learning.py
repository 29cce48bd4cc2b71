"""The parts of a recipe beyond calibration: training, tuning of the whole, correction while sampling."""

from typing import Literal

from pydantic import Field, ValidationInfo, field_validator, model_validator

from tempoquant.recipe.basics import FLOAT_BITS, MOST, WIDTHS, Count, Part


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
    samples: Count = 16
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
        scheme: the quantizers.
        steps: of the optimizer.
        batch: samples a step.
        accumulate: parts that a batch is computed in.
        lr: of weights and of interval networks.
        step_lr: of step sizes and offsets, a share of ``lr``.
        weight_decay: of weights and interval networks.
        warm_up: steps until ``lr`` is reached.
        schedule: of ``lr`` from there: along a half cosine to 0, or none.
        ema: decay of the average of all that is trained, which is what is kept.
        loss: "l2" or "l1" of the prediction.
        autocast: the type that layers compute in, float32 if unset.
        lora: rank of what is added to frozen weights before they are rounded; unset: the weights themselves train.
        encoding: of the time step, for interval networks.
        initialization: of interval networks.
        sees: what intervals are made from: the time step ("time"), or, for comparison, the input's own "range", or a
            network of its "statistics", or of "statistics+time".
    """

    scheme: Literal["lsq", "lsq+", "pact", "nipq", "duq", "qil"] = "lsq"
    steps: Count = 1000
    batch: Count = 64
    accumulate: Count = 1
    lr: float = Field(2e-4, gt=0)
    step_lr: float = Field(0.1, gt=0)
    weight_decay: float = Field(0.01, ge=0)
    warm_up: int = Field(100, ge=0, le=MOST)
    schedule: Literal["cosine", "constant"] = "cosine"
    ema: float = Field(0.999, ge=0, lt=1)
    loss: Literal["l2", "l1"] = "l2"
    autocast: Literal["bfloat16"] | None = None
    lora: Count | None = None
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
        iterations: of Adam.
        batch: recorded inputs an iteration sees.
        lr: the step size at the start, as a share of each tensor's mean magnitude; it falls to 0 along a cosine.
    """

    iterations: Count = 100
    batch: Count = 8
    lr: float = Field(1e-3, gt=0, le=1)
