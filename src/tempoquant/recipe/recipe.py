"""A recipe whole: read, checked, written."""

from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import Field, ValidationError, ValidationInfo, field_validator, model_validator

from tempoquant.documents import read_yaml
from tempoquant.extension import STAGES
from tempoquant.files import write_whole
from tempoquant.recipe.basics import FLOAT_BITS, Part, registered
from tempoquant.recipe.learning import Correction, Training, Tuning
from tempoquant.recipe.parts import Activations, Attention, Calibration, Override, Rotation, Temporal, Weights
from tempoquant.recipe.wording import refused


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
    transforms: tuple[Rotation, ...] = Field((), exclude_if=lambda transforms: not transforms)
    stages: tuple[Annotated[str, registered(STAGES)], ...] = Field((), exclude_if=lambda stages: not stages)
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

    @model_validator(mode="after")
    def _tables_of_networks_alone(self) -> "Recipe":
        if self.activations.keep_generators and (self.tuning is not None or self.correction is not None):
            raise ValueError("activations.keep_generators: tuning and correction know the recorded steps alone")
        return self

    @model_validator(mode="after")
    def _one_static_scale_to_learn(self) -> "Recipe":
        apart = self.activations.dynamic or self.activations.granularity != "per-tensor"
        if apart and self.training is not None:
            raise ValueError("training learns one static scale a tensor: leave out activations.dynamic and granularity")
        if apart and self.correction is not None and self.correction.step_bits:
            raise ValueError(
                "step-wise widths need one static scale a tensor: leave out activations.dynamic and granularity"
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

    def with_entries(self, part: Literal["weights", "activations"], **entries: Any) -> "Recipe":
        """The same recipe with other entries of one part.

        Raises:
            InputError: they are not valid, or do not go with the rest.
        """
        data = self.model_dump(mode="json")
        return Recipe.parse({**data, part: {**data[part], **entries}})

    def keeping_generators(self) -> "Recipe":
        """The same recipe, its interval networks kept beside the tables; InputError if it has none."""
        return self.with_entries("activations", keep_generators=True)

    @property
    def uses_effort(self) -> bool:
        """Whether ``effort`` changes anything: weights are fitted to recorded inputs, or step sizes learn."""
        return self.weights.rounding != "nearest" or self.activations.learn

    @property
    def has_form(self) -> bool:
        """Whether its models can be stored: intervals that follow their own input have no form on disk."""
        return self.training is None or self.training.sees == "time"

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
        return self.weights.is_symmetric(bits)

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
            raise refused(error, cls, "recipe") from None

    @classmethod
    def from_file(cls, path: Path | str) -> "Recipe":
        """Read a recipe from a YAML or JSON file."""
        return cls.parse(read_yaml(Path(path), f"recipe file {str(path)!r}"))

    def to_file(self, path: Path | str) -> None:
        """Write the recipe as YAML."""
        write_whole(Path(path), yaml.safe_dump(self.model_dump(mode="json"), sort_keys=False))
