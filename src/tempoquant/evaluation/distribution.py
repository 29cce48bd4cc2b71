"""Metrics of sets of images: names, requirements, and computation from feature statistics."""

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from tempoquant.evaluation.extractors import FeatureExtractor
from tempoquant.evaluation.inception import InceptionFeatures
from tempoquant.evaluation.moments import frechet
from tempoquant.evaluation.scores import (
    NEIGHBOURS,
    SPLITS,
    SUBSETS,
    inception_score,
    kernel_distance,
    precision_recall,
    subset_size,
)
from tempoquant.evaluation.statistics import Statistics

Result = dict[str, Any]
Compute = Callable[[str, Statistics, Statistics | None, int], Result]


@dataclass(frozen=True)
class Metric:
    """A metric of a set of images.

    Attributes:
        published: its name with the published Inception weights.
        generic: its name with another extractor, whose name follows.
        output: of the extractor that it is computed from.
        needs_reference: whether it compares with real images.
        needs_rows: whether it needs single feature vectors beside Gaussians.
        min_images: fewest images on a side.
        compute: ``compute(name, generated, real, seed)`` gives the result as JSON data.
    """

    published: str
    generic: str
    output: str
    needs_reference: bool
    needs_rows: bool
    min_images: int
    compute: Compute

    def name(self, extractor: FeatureExtractor) -> str:
        """Its name with this extractor: a distance on other features than Inception's is never called FID."""
        return self.published if extractor.name == InceptionFeatures.name else f"{self.generic}-{extractor.name}"


def _frechet(output: str) -> Compute:
    def compute(name: str, generated: Statistics, real: Statistics | None, seed: int) -> Result:
        assert real is not None
        a, b = real.gaussians[output], generated.gaussians[output]
        dimensions = len(a.mean)
        fewest = min(side.count for side in (a, b) if side.count is not None)
        if fewest <= dimensions:
            text = f"{name} of {fewest} images with {dimensions} feature dimensions: the covariance is singular"
            warnings.warn(f"{text} and the distance unreliable; use more images", UserWarning, stacklevel=2)
        counts = {"real": a.count, "generated": b.count, "dimensions": dimensions}
        return {"name": name, "value": frechet(a, b), **counts}

    return compute


def _inception_score(name: str, generated: Statistics, real: Statistics | None, seed: int) -> Result:
    mean, std = inception_score(generated.rows["logits"])
    return {"name": name, "value": mean, "std": std, "splits": SPLITS, "generated": len(generated.rows["logits"])}


def _kernel(name: str, generated: Statistics, real: Statistics | None, seed: int) -> Result:
    assert real is not None
    a, b = real.rows["pooled"], generated.rows["pooled"]
    mean, std = kernel_distance(a, b, seed=seed)
    sampling = {"subsets": SUBSETS, "subset_size": subset_size(len(a), len(b)), "seed": seed}
    return {"name": name, "value": mean, "std": std, **sampling, "real": len(a), "generated": len(b)}


def _precision_recall(name: str, generated: Statistics, real: Statistics | None, seed: int) -> Result:
    assert real is not None
    a, b = real.rows["pooled"], generated.rows["pooled"]
    precision, recall = precision_recall(a, b)
    counts = {"neighbours": NEIGHBOURS, "real": len(a), "generated": len(b)}
    return {"name": name, "precision": precision, "recall": recall, **counts}


METRICS: dict[str, Metric] = {
    "fd": Metric("FID", "FD", "pooled", True, False, 2, _frechet("pooled")),
    "sfd": Metric("sFID", "sFD", "spatial", True, False, 2, _frechet("spatial")),
    "is": Metric("IS", "IS", "logits", False, True, SPLITS, _inception_score),
    "kid": Metric("KID", "KD", "pooled", True, True, 4, _kernel),
    "pr": Metric("precision and recall", "PR", "pooled", True, True, NEIGHBOURS + 1, _precision_recall),
}
