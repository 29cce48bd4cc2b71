"""Requirements: bounds on metrics, checked against the result of an evaluation."""

import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from tempoquant.errors import InputError, unknown
from tempoquant.evaluation.shapes import SSIM_WINDOW, has_psnr, has_ssim

METRIC_PATHS: dict[str, tuple[str, ...]] = {
    "psnr": ("psnr", "mean"),
    "ssim": ("ssim", "mean"),
    "sqnr": ("sqnr", "db"),
    "relative_error": ("relative_error", "mean"),
    "temporal_cosine": ("cosine", "mean"),
    "temporal_cosine_min": ("cosine", "min"),
    "temporal_mismatch": ("temporal_mismatch",),
    "size_ratio": ("size", "ratio"),
    "fd": ("distribution", "fd", "value"),
    "sfd": ("distribution", "sfd", "value"),
    "is": ("distribution", "is", "value"),
    "kid": ("distribution", "kid", "value"),
    "precision": ("distribution", "pr", "precision"),
    "recall": ("distribution", "pr", "recall"),
    "clip": ("distribution", "clip", "value"),
}
"""Where each metric stands in an evaluation's result."""
INFINITE_IF_NONE = ("psnr", "sqnr")
"""Metrics that are infinite for equal models, which JSON cannot say."""
OF_IMAGES: dict[str, Callable[[Sequence[int]], bool]] = {"psnr": has_psnr, "ssim": has_ssim}
"""Whether samples of a shape have these metrics."""
BOUNDS: dict[str, Callable[[float, float], bool]] = {
    ">=": lambda value, bound: value >= bound,
    "<=": lambda value, bound: value <= bound,
    ">": lambda value, bound: value > bound,
    "<": lambda value, bound: value < bound,
}
FORM = re.compile(r"\s*([a-z_]+)\s*(>=|<=|>|<)\s*([-+0-9.e]+)\s*")


@dataclass(frozen=True)
class Requirement:
    """A bound on one metric, such as ``psnr>=25``.

    Attributes:
        metric: a key of ``METRIC_PATHS``.
        bound: a key of ``BOUNDS``.
        limit: the value that the metric is compared with.
    """

    metric: str
    bound: str
    limit: float

    @property
    def text(self) -> str:
        """The requirement as text, such as ``psnr>=25``."""
        return f"{self.metric}{self.bound}{self.limit:g}"

    @property
    def measured_by(self) -> str | None:
        """The name in ``--metrics`` that measures it; None for a paired metric, which is always measured."""
        path = METRIC_PATHS[self.metric]
        return path[1] if path[0] == "distribution" else None


@dataclass(frozen=True)
class Outcome:
    """A requirement checked against a result.

    Attributes:
        text: the requirement, such as ``psnr>=25``.
        value: of the metric.
        met: whether the bound holds.
        by: distance of the value from the limit; 0 if met.
    """

    text: str
    value: float
    met: bool
    by: float

    def to_dict(self) -> dict[str, Any]:
        """The attributes as JSON data; an infinite value becomes None."""
        return {**asdict(self), "value": self.value if math.isfinite(self.value) else None}


def parse_requirements(text: str, metrics: Sequence[str] = ()) -> list[Requirement]:
    """Parse requirements such as ``"psnr>=25,temporal_cosine>=0.999"``.

    Args:
        text: separated by commas.
        metrics: names of the metrics of sets of images that will be measured beside the paired ones.

    Raises:
        InputError: a part is no requirement, its metric is unknown, or is not among ``metrics``.
    """
    requirements = []
    for part in text.split(","):
        match = FORM.fullmatch(part)
        try:
            metric, bound, limit = match.groups() if match else ("", "", "")
            requirement = Requirement(metric, bound, float(limit))
        except ValueError:
            raise InputError(
                f"requirement {part.strip()!r}: a metric and its bound are needed, such as psnr>=25"
            ) from None
        if metric not in METRIC_PATHS:
            raise unknown("metric of a requirement", metric, METRIC_PATHS)
        needed = requirement.measured_by
        if needed is not None and needed not in metrics:
            raise InputError(f"requirement {requirement.text}: {metric} is not measured without --metrics {needed}")
        requirements.append(requirement)
    return requirements


def check_measured(requirements: Sequence[Requirement], shape: Sequence[int]) -> None:
    """Check that samples have the metrics of all requirements.

    Args:
        requirements: to check.
        shape: of one sample.

    Raises:
        InputError: PSNR or SSIM is required and is not defined for the shape.
    """
    for requirement in requirements:
        if requirement.metric in undefined_metrics(shape):
            raise InputError(f"requirement {requirement.text}: {why_undefined(shape)}")


def undefined_metrics(shape: Sequence[int]) -> list[str]:
    """Metrics that are not defined for samples of ``shape``, without the batch dimension."""
    return [metric for metric, has in OF_IMAGES.items() if not has(shape)]


def why_undefined(shape: Sequence[int]) -> str:
    """The reason why :func:`undefined_metrics` are not defined for samples of ``shape``, for messages."""
    names = " or ".join(metric.upper() for metric in undefined_metrics(shape))
    needed = "1 or 3 channels, height, width" if not has_psnr(shape) else f"sides of at least {SSIM_WINDOW}"
    return (
        f"samples of {tuple(shape)} have no {names}, which need images ({needed}): sqnr and relative_error judge them"
    )


def judge(requirements: Sequence[Requirement], result: Mapping[str, Any]) -> list[Outcome]:
    """Check the result of an evaluation against requirements, one outcome each.

    Args:
        requirements: to check.
        result: JSON data of an evaluation.

    Raises:
        InputError: the result has no such metric.
    """
    outcomes = []
    for requirement in requirements:
        value = _value(requirement.metric, result)
        met = BOUNDS[requirement.bound](value, requirement.limit)
        outcomes.append(Outcome(requirement.text, value, met, 0.0 if met else abs(value - requirement.limit)))
    return outcomes


def _value(metric: str, result: Mapping[str, Any]) -> float:
    *parents, last = METRIC_PATHS[metric]
    metrics: Any = result
    for key in parents:
        metrics = metrics.get(key) or {}
    value = metrics.get(last)
    if last in metrics and value is None and metric in INFINITE_IF_NONE:
        return float("inf")
    if value is None:
        raise InputError(f"this evaluation has no {metric} to check a requirement against")
    return float(value)
