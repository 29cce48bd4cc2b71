"""Metrics: paired (same noise, against full precision) and distributional; pictures to look at. A leaf."""

from tempoquant.evaluation.distribution import FrechetResult, frechet_distance
from tempoquant.evaluation.extractors import EXTRACTORS, FeatureExtractor, feature_extractor
from tempoquant.evaluation.features import SmallClassifier
from tempoquant.evaluation.grid import save_grid, save_images
from tempoquant.evaluation.paired import cosine, psnr, sqnr_db, ssim, temporal_mismatch, temporal_mismatch_of
from tempoquant.evaluation.result import PairedMetrics
from tempoquant.evaluation.trajectory import Reference, compare, evaluate_pair, reference

__all__ = [
    "EXTRACTORS",
    "FeatureExtractor",
    "FrechetResult",
    "PairedMetrics",
    "Reference",
    "SmallClassifier",
    "compare",
    "cosine",
    "evaluate_pair",
    "feature_extractor",
    "frechet_distance",
    "psnr",
    "reference",
    "save_grid",
    "save_images",
    "sqnr_db",
    "ssim",
    "temporal_mismatch",
    "temporal_mismatch_of",
]
