"""Names of metrics and feature extractors; imported without torch."""

from collections.abc import Callable
from typing import Any

from tempoquant.imports import deferred

CLIP = "clip"
"""The metric of images with their prompts, which needs no feature extractor."""
METRIC_NAMES = ("fd", "sfd", "is", "kid", "pr")
"""Metrics of sets of images that are computed from features."""
PUBLISHED_NAMES = {"fid": "fd", "sfid": "sfd"}
"""Further names of metrics, valid with the published Inception weights alone."""

EXTRACTORS: dict[str, Callable[..., Any]] = {
    "inception": deferred("tempoquant.evaluation.inception:InceptionFeatures"),
    "fashion32-cnn": deferred("tempoquant.evaluation.extractors:Fashion32Features"),
    "EffNetLite0": deferred("tempoquant.evaluation.extractors:EffNetLite0Features"),
}
"""By name, ``extractor(weights, device)`` that loads a :class:`~tempoquant.evaluation.FeatureExtractor`."""
