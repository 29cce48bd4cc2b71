"""Metrics of sets of images: what each is called, what it needs, and how it is computed from statistics."""

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

Found = dict[str, Any]
Compute = Callable[[str, Statistics, Statistics | None, int], Found]


@dataclass(frozen=True)
class Metric:
    """A metric of a set of images.

    Attributes:
        published: its name with the published Inception weights. own: with others, before the extractor's name.
        output: of the extractor, that it is made of.
        compares: whether it needs a reference. rows: whether it needs single features, not only Gaussians.
        least: fewest images on a side.
        compute: from its full name, the generated and the real statistics, and a seed.
    """

    published: str
    own: str
    output: str
    compares: bool
    rows: bool
    least: int
    compute: Compute

    def name(self, extractor: FeatureExtractor) -> str:
        """What tables call it: a distance on other features than Inception's is never called FID."""
        return self.published if extractor.name == InceptionFeatures.name else f"{self.own}-{extractor.name}"


def _frechet(output: str) -> Compute:
    def compute(name: str, generated: Statistics, real: Statistics | None, seed: int) -> Found:
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


def _inception_score(name: str, generated: Statistics, real: Statistics | None, seed: int) -> Found:
    mean, std = inception_score(generated.rows["logits"])
    return {"name": name, "value": mean, "std": std, "splits": SPLITS, "generated": len(generated.rows["logits"])}


def _kernel(name: str, generated: Statistics, real: Statistics | None, seed: int) -> Found:
    assert real is not None
    a, b = real.rows["pooled"], generated.rows["pooled"]
    mean, std = kernel_distance(a, b, seed=seed)
    drawn = {"subsets": SUBSETS, "subset_size": subset_size(len(a), len(b)), "seed": seed}
    return {"name": name, "value": mean, "std": std, **drawn, "real": len(a), "generated": len(b)}


def _precision_recall(name: str, generated: Statistics, real: Statistics | None, seed: int) -> Found:
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
