"""Plan of metrics of a set of images: all is checked first, then images are read once, batch by batch."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from tempoquant.errors import InputError, unknown
from tempoquant.evaluation.clip import ClipScore
from tempoquant.evaluation.distribution import METRICS
from tempoquant.evaluation.extractors import FeatureExtractor, feature_extractor
from tempoquant.evaluation.inception import InceptionFeatures
from tempoquant.evaluation.names import CLIP, EXTRACTORS, PUBLISHED_NAMES
from tempoquant.evaluation.real import ReferenceSet, open_reference
from tempoquant.evaluation.statistics import Statistics, compute_statistics
from tempoquant.progress import Progress


@dataclass(frozen=True)
class Plan:
    """Metrics to compute, with their extractor, reference and CLIP model; see :func:`plan_metrics`.

    Attributes:
        metrics: keys of ``METRICS``, or ``clip``; without repetition.
        extractor: None if ``clip`` is the only metric.
        reference: None if no metric needs one, or if its statistics are an argument of :meth:`measure`.
        clip: the CLIP model; None without the metric ``clip``.
        cache: folder of cached statistics of references; None for none.
    """

    metrics: tuple[str, ...]
    extractor: FeatureExtractor | None = None
    reference: ReferenceSet | None = None
    clip: ClipScore | None = None
    cache: Path | None = None

    @property
    def needs_reference(self) -> bool:
        """Whether a metric needs a reference."""
        return any(METRICS[key].needs_reference for key in self._feature_metrics)

    @property
    def real_rows(self) -> tuple[str, ...]:
        """Outputs whose single feature vectors of the reference are needed."""
        return tuple(
            {
                METRICS[key].output
                for key in self._feature_metrics
                if METRICS[key].needs_rows and METRICS[key].needs_reference
            }
        )

    def check(self, shape: Sequence[int], count: int, prompts: Sequence[str] | None = None) -> None:
        """Check that the metrics can be computed of a set of images.

        Args:
            shape: (H, W, C) of the images.
            count: of the images.
            prompts: of the images, for the metric ``clip``.

        Raises:
            InputError: too few images, another shape than the reference's, or not one prompt an image.
        """
        for key in self._feature_metrics:
            if count < METRICS[key].min_images:
                raise InputError(f"{key} needs at least {METRICS[key].min_images} images, not {count}")
        if self.extractor is not None:
            height, width, channels = shape
            outputs = self.extractor(torch.zeros(1, channels, height, width, dtype=torch.uint8))
            if self.reference is not None:
                self.reference.check_shape(
                    tuple(shape), {kind: features.shape[1] for kind, features in outputs.items()}
                )
        if self.clip is not None and (prompts is None or len(prompts) != count):
            number = "none" if prompts is None else str(len(prompts))
            raise InputError(f"a CLIP score of {count} images needs a prompt for each, and {number} are given")

    def real_statistics(self, progress: Progress | None = None) -> Statistics | None:
        """Statistics of the reference, cached or computed; None without a reference."""
        if self.reference is None or self.extractor is None:
            return None
        return self.reference.statistics_for(self.extractor, self.real_rows, self.cache, progress)

    def compute_statistics(
        self, batches: Iterable[Tensor], source: str, rows: Sequence[str] | None = None
    ) -> Statistics:
        """Compute statistics of images with the plan's extractor.

        Args:
            batches: (N, H, W, C) uint8.
            source: name of the set in reports.
            rows: outputs whose single feature vectors are kept; None for those that a reference needs.
        """
        assert self.extractor is not None
        rows = self.real_rows if rows is None else rows
        return compute_statistics(batches, self.extractor, rows=rows, source=source)

    def measure(
        self,
        batches: Iterable[Tensor],
        *,
        real: Statistics | None = None,
        prompts: Sequence[str] | None = None,
        seed: int = 0,
    ) -> dict[str, Any]:
        """Compute all metrics of images that :meth:`check` accepted, as JSON data.

        Args:
            batches: (N, H, W, C) uint8.
            real: statistics of the reference.
            prompts: of the images, in order.
            seed: of KID's random subsets.
        """
        scores: list[Tensor] = []
        if self.clip is not None:
            batches = _with_clip_scores(batches, self.clip, prompts or (), scores)
        if self.extractor is None:
            result: dict[str, Any] = {"generated": sum(len(batch) for batch in batches)}
        else:
            rows = {METRICS[key].output for key in self._feature_metrics if METRICS[key].needs_rows}
            generated = self.compute_statistics(batches, "the generated images", sorted(rows))
            result = self._measure_features(generated, real, seed)
        if self.clip is not None:
            result[CLIP] = _clip_result(self.clip, torch.cat(scores))
        return result

    @property
    def _feature_metrics(self) -> tuple[str, ...]:
        return tuple(key for key in self.metrics if key != CLIP)

    def _measure_features(self, generated: Statistics, real: Statistics | None, seed: int) -> dict[str, Any]:
        extractor = self.extractor
        assert extractor is not None
        result: dict[str, Any] = {"generated": generated.count}
        for key in self._feature_metrics:
            metric = METRICS[key]
            result[key] = metric.compute(metric.name(extractor), generated, real, seed)
        description = {"name": extractor.name, "sha256": extractor.digest, "preprocessing": extractor.preprocessing}
        result["extractor"] = description
        if real is not None:
            content = None if real.provenance is None else real.provenance.content or None
            result["reference"] = {"source": real.source, "images": real.count, "sha256": content}
        return result


def plan_metrics(
    metrics: Sequence[str],
    *,
    extractor: str | FeatureExtractor | None = None,
    reference: Any = None,
    clip: str | ClipScore | None = None,
    cache: Path | None = None,
) -> Plan:
    """Load the extractor, reference and CLIP model of metrics, and check that they fit.

    Args:
        metrics: of fd (FID), sfd (sFID), is, kid, pr (precision and recall), clip.
        extractor: a name in ``EXTRACTORS``, or a :class:`FeatureExtractor`.
        reference: see :func:`open_reference`.
        clip: a local folder or hub id of a CLIP model, or a :class:`ClipScore`.
        cache: folder of cached statistics of references; None for none.

    Raises:
        InputError: an unknown metric, or one whose extractor, output, reference or CLIP model is missing or does not
            fit.
    """
    loaded = feature_extractor(extractor) if isinstance(extractor, str) else extractor
    keys = _keys(metrics, loaded)
    features = [key for key in keys if key != CLIP]
    for key in features:
        _check_output(key, loaded)
    if CLIP not in keys:
        model = None
    elif clip is None:
        raise InputError("clip needs a CLIP model: a local folder or a hub id")
    else:
        model = ClipScore(clip) if isinstance(clip, str) else clip
    needs_reference = any(METRICS[key].needs_reference for key in features)
    real = open_reference(reference) if reference is not None and needs_reference else None
    plan = Plan(keys, loaded if features else None, real, model, cache)
    if real is not None and loaded is not None:
        gaussians = [
            METRICS[key].output for key in features if METRICS[key].needs_reference and not METRICS[key].needs_rows
        ]
        real.check(loaded, gaussians, plan.real_rows)
    return plan


def _check_output(key: str, extractor: FeatureExtractor | None) -> None:
    if extractor is None:
        raise InputError(f"{key} needs a feature extractor: {', '.join(EXTRACTORS)}")
    if METRICS[key].output not in extractor.outputs:
        raise InputError(f"{key} needs {METRICS[key].output} features, which {extractor.name} does not give")


def _keys(metrics: Sequence[str], extractor: FeatureExtractor | None) -> tuple[str, ...]:
    keys = []
    for name in metrics:
        key = PUBLISHED_NAMES.get(name, name)
        if key not in METRICS and key != CLIP:
            raise unknown("metric", name, [*METRICS, *PUBLISHED_NAMES, CLIP])
        if key != name and extractor is not None and extractor.name != InceptionFeatures.name:
            raise InputError(f"{name} is made of the published Inception weights: with {extractor.name} ask for {key}")
        keys.append(key)
    if not keys:
        raise InputError(f"no metric is requested: valid are {', '.join([*METRICS, CLIP])}")
    return tuple(dict.fromkeys(keys))


def _with_clip_scores(
    batches: Iterable[Tensor], clip: ClipScore, prompts: Sequence[str], scores: list[Tensor]
) -> Iterator[Tensor]:
    """Yield the batches; append the CLIP scores of their images to ``scores``."""
    start = 0
    for batch in batches:
        scores.append(clip(batch, prompts[start : start + len(batch)]))
        start += len(batch)
        yield batch


def _clip_result(clip: ClipScore, scores: Tensor) -> dict[str, Any]:
    facts = {"model": clip.name, "sha256": clip.digest, "preprocessing": clip.preprocessing}
    return {"name": "CLIP score", "value": float(scores.mean()), "generated": len(scores), **facts}
