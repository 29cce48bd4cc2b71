"""Validation of the entries of ``tempoquant.json`` that reports show: evaluation and calibration conditioning."""

from collections.abc import Mapping
from typing import Any

from pydantic import Field, ValidationError, field_validator

from tempoquant.diagnosis import StrictEntries
from tempoquant.errors import FormatError
from tempoquant.recipe import refused


class _Images(StrictEntries):
    per_image: list[float | None] = Field(default_factory=list)


class _Distance(StrictEntries):
    name: str
    value: float
    std: float | None = None


class _Requirement(StrictEntries):
    text: str
    met: bool
    by: float
    value: float | None


class _Evaluation(StrictEntries):
    psnr: _Images | None = None
    ssim: _Images | None = None
    data_range: float | None = None
    distribution: dict[str, Any] | None = None
    requirements: list[_Requirement] = Field(default_factory=list)

    @field_validator("distribution")
    @classmethod
    def _check_distances(cls, metrics: dict[str, Any] | None) -> dict[str, Any] | None:
        for part in (metrics or {}).values():
            if isinstance(part, dict) and "value" in part:
                _Distance.model_validate(part)
        return metrics


class _Conditioning(StrictEntries):
    guidance_scale: float = 1.0


class _Evidence(StrictEntries):
    model: str = ""
    evaluation: _Evaluation = _Evaluation()
    conditioning: _Conditioning = _Conditioning()
    files: dict[str, str] = Field(default_factory=dict)


def check_evidence(evidence: Mapping[str, Any], where: str) -> None:
    """Check that the entries of ``tempoquant.json`` that reports show are of the right types.

    Args:
        evidence: content of the file.
        where: names the file in the message.

    Raises:
        FormatError: an entry is not valid.
    """
    try:
        _Evidence.model_validate(evidence)
    except ValidationError as error:
        raise FormatError(str(refused(error, _Evidence, where))) from None
