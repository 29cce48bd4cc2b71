"""Metrics: paired (same noise, against full precision) and distributional; pictures to look at. A leaf."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tempoquant.evaluation.clip import ClipScore
    from tempoquant.evaluation.distribution import METRICS
    from tempoquant.evaluation.extractors import FeatureExtractor, feature_extractor
    from tempoquant.evaluation.features import SmallClassifier
    from tempoquant.evaluation.grid import save_grid, save_images
    from tempoquant.evaluation.images import DatasetImages, ImageSet, TensorImages
    from tempoquant.evaluation.measure import FrechetResult, distribution_metrics, frechet_distance
    from tempoquant.evaluation.names import CLIP, EXTRACTORS, METRIC_NAMES, PUBLISHED_NAMES
    from tempoquant.evaluation.paired import (
        cosine,
        nearest_rows,
        psnr,
        relative_error,
        sqnr_db,
        ssim,
        temporal_mismatch,
        temporal_mismatch_of,
    )
    from tempoquant.evaluation.plan import Plan, plan_metrics
    from tempoquant.evaluation.ranges import PIXEL_RANGE, data_range, warn_of_range
    from tempoquant.evaluation.real import open_reference
    from tempoquant.evaluation.requirements import (
        Outcome,
        Requirement,
        check_measured,
        judge,
        parse_requirements,
        undefined_metrics,
        why_undefined,
    )
    from tempoquant.evaluation.result import PairedMetrics
    from tempoquant.evaluation.sampled import check_sampled, measure_sampled, sampled_reference
    from tempoquant.evaluation.samples import check_fit, save_samples
    from tempoquant.evaluation.shapes import has_ssim
    from tempoquant.evaluation.statistics import (
        Statistics,
        advancing,
        compute_statistics,
        default_cache,
        load_statistics,
        save_statistics,
    )
    from tempoquant.evaluation.trajectory import Reference, compare, evaluate_pair, reference
else:
    from tempoquant.imports import lazy_face

    __getattr__, __dir__ = lazy_face(__name__, __file__)

__all__ = [
    "CLIP",
    "EXTRACTORS",
    "METRICS",
    "METRIC_NAMES",
    "PIXEL_RANGE",
    "PUBLISHED_NAMES",
    "ClipScore",
    "DatasetImages",
    "FeatureExtractor",
    "FrechetResult",
    "ImageSet",
    "Outcome",
    "PairedMetrics",
    "Plan",
    "Reference",
    "Requirement",
    "SmallClassifier",
    "Statistics",
    "TensorImages",
    "advancing",
    "check_fit",
    "check_measured",
    "check_sampled",
    "compare",
    "compute_statistics",
    "cosine",
    "data_range",
    "default_cache",
    "distribution_metrics",
    "evaluate_pair",
    "feature_extractor",
    "frechet_distance",
    "has_ssim",
    "judge",
    "load_statistics",
    "measure_sampled",
    "nearest_rows",
    "open_reference",
    "parse_requirements",
    "plan_metrics",
    "psnr",
    "reference",
    "relative_error",
    "sampled_reference",
    "save_grid",
    "save_images",
    "save_samples",
    "save_statistics",
    "sqnr_db",
    "ssim",
    "temporal_mismatch",
    "temporal_mismatch_of",
    "undefined_metrics",
    "warn_of_range",
    "why_undefined",
]
