"""What users call metrics and feature extractors; nothing here needs torch."""

from collections.abc import Callable
from typing import Any

from tempoquant.imports import deferred

CLIP = "clip"
"""Not made of features: it compares images with their prompts."""
METRIC_NAMES = ("fd", "sfd", "is", "kid", "pr")
"""Metrics of sets of images that are made of features."""
PUBLISHED_NAMES = {"fid": "fd", "sfid": "sfd"}
"""What users may call a metric too, where the published Inception weights are asked for."""

EXTRACTORS: dict[str, Callable[..., Any]] = {
    "inception": deferred("tempoquant.evaluation.inception:InceptionFeatures"),
    "fashion32-cnn": deferred("tempoquant.evaluation.extractors:Fashion32Features"),
    "EffNetLite0": deferred("tempoquant.evaluation.extractors:EffNetLite0Features"),
}
"""``extractor(weights, device)`` makes the :class:`~tempoquant.evaluation.FeatureExtractor` of a name."""
