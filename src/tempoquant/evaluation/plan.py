"""Measuring a set of images: everything that can be wrong is found first, then images stream by once."""

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
from tempoquant.evaluation.real import RealSet, open_reference
from tempoquant.evaluation.statistics import Statistics, gather
from tempoquant.progress import Progress


@dataclass(frozen=True)
class Plan:
    """What to measure, and with what; made by :func:`plan_metrics`.

    Attributes:
        metrics: keys of ``METRICS``, or ``clip``; without repetition.
        extractor: None if ``clip`` alone is asked for.
        reference: None if no metric compares, or if statistics will be given to :meth:`measure`.
        cache: folder for statistics of references; None to keep none.
    """

    metrics: tuple[str, ...]
    extractor: FeatureExtractor | None = None
    reference: RealSet | None = None
    clip: ClipScore | None = None
    cache: Path | None = None

    @property
    def compares(self) -> bool:
        """Whether a metric needs a reference."""
        return any(METRICS[key].compares for key in self._of_features)

    @property
    def real_rows(self) -> tuple[str, ...]:
        """Outputs whose single features a reference must give."""
        return tuple({METRICS[key].output for key in self._of_features if METRICS[key].rows and METRICS[key].compares})

    def check(self, shape: Sequence[int], count: int, prompts: Sequence[str] | None = None) -> None:
        """Raise InputError unless so many images (H, W, C), with these prompts, can be measured."""
        for key in self._of_features:
            if count < METRICS[key].least:
                raise InputError(f"{key} needs at least {METRICS[key].least} images, not {count}")
        if self.extractor is not None:
            height, width, channels = shape
            outputs = self.extractor(torch.zeros(1, channels, height, width, dtype=torch.uint8))
            if self.reference is not None:
                self.reference.check_shape(tuple(shape), {kind: found.shape[1] for kind, found in outputs.items()})
        if self.clip is not None and (prompts is None or len(prompts) != count):
            given = "none" if prompts is None else str(len(prompts))
            raise InputError(f"a CLIP score of {count} images needs a prompt for each, and {given} are given")

    def real_statistics(self, progress: Progress | None = None) -> Statistics | None:
        """The reference's statistics, from the cache where they are there; None without a reference."""
        if self.reference is None or self.extractor is None:
            return None
        return self.reference.measured(self.extractor, self.real_rows, self.cache, progress)

    def gather(self, batches: Iterable[Tensor], source: str, rows: Sequence[str] | None = None) -> Statistics:
        """Statistics of images (N, H, W, C) uint8 for a metric that compares, with the rows that it needs."""
        assert self.extractor is not None
        return gather(batches, self.extractor, rows=self.real_rows if rows is None else rows, source=source)

    def measure(
        self,
        batches: Iterable[Tensor],
        *,
        real: Statistics | None = None,
        prompts: Sequence[str] | None = None,
        seed: int = 0,
    ) -> dict[str, Any]:
        """Everything asked for, of images (N, H, W, C) uint8 that :meth:`check` has let pass.

        Args:
            real: the reference's statistics. prompts: of the images, in order. seed: of KID's subsets.
        """
        scores: list[Tensor] = []
        if self.clip is not None:
            batches = _scored(batches, self.clip, prompts or (), scores)
        if self.extractor is None:
            found: dict[str, Any] = {"generated": sum(len(batch) for batch in batches)}
        else:
            rows = {METRICS[key].output for key in self._of_features if METRICS[key].rows}
            found = self._of(self.gather(batches, "the generated images", sorted(rows)), real, seed)
        if self.clip is not None:
            found[CLIP] = _clip_result(self.clip, torch.cat(scores))
        return found

    @property
    def _of_features(self) -> tuple[str, ...]:
        return tuple(key for key in self.metrics if key != CLIP)

    def _of(self, generated: Statistics, real: Statistics | None, seed: int) -> dict[str, Any]:
        extractor = self.extractor
        assert extractor is not None
        found: dict[str, Any] = {"generated": generated.count}
        for key in self._of_features:
            metric = METRICS[key]
            found[key] = metric.compute(metric.name(extractor), generated, real, seed)
        described = {"name": extractor.name, "sha256": extractor.digest, "preprocessing": extractor.preprocessing}
        found["extractor"] = described
        if real is not None:
            content = None if real.made is None else real.made.content or None
            found["reference"] = {"source": real.source, "images": real.count, "sha256": content}
        return found


def plan_metrics(
    metrics: Sequence[str],
    *,
    extractor: str | FeatureExtractor | None = None,
    reference: Any = None,
    clip: str | ClipScore | None = None,
    cache: Path | None = None,
) -> Plan:
    """Load what the metrics need, and refuse what cannot be measured.

    Args:
        metrics: of fd (FID), sfd (sFID), is, kid, pr (precision and recall), clip.
        extractor: its name, or one that is loaded. reference: see :func:`open_reference`.
        clip: a local folder or hub id of a CLIP model.

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
    compares = any(METRICS[key].compares for key in features)
    real = open_reference(reference) if reference is not None and compares else None
    plan = Plan(keys, loaded if features else None, real, model, cache)
    if real is not None and loaded is not None:
        fitted = [METRICS[key].output for key in features if METRICS[key].compares and not METRICS[key].rows]
        real.check(loaded, fitted, plan.real_rows)
    return plan


def _check_output(key: str, extractor: FeatureExtractor | None) -> None:
    if extractor is None:
        raise InputError(f"{key} needs a feature extractor: {', '.join(EXTRACTORS)}")
    if METRICS[key].output not in extractor.outputs:
        raise InputError(f"{key} needs {METRICS[key].output} features, which {extractor.name} does not give")


def _keys(metrics: Sequence[str], extractor: FeatureExtractor | None) -> tuple[str, ...]:
    found = []
    for name in metrics:
        key = PUBLISHED_NAMES.get(name, name)
        if key not in METRICS and key != CLIP:
            raise unknown("metric", name, [*METRICS, *PUBLISHED_NAMES, CLIP])
        if key != name and extractor is not None and extractor.name != InceptionFeatures.name:
            raise InputError(f"{name} is made of the published Inception weights: with {extractor.name} ask for {key}")
        found.append(key)
    if not found:
        raise InputError(f"no metric is asked for: valid are {', '.join([*METRICS, CLIP])}")
    return tuple(dict.fromkeys(found))


def _scored(
    batches: Iterable[Tensor], clip: ClipScore, prompts: Sequence[str], scores: list[Tensor]
) -> Iterator[Tensor]:
    """The same batches; the CLIP scores of their images are appended to ``scores``."""
    done = 0
    for batch in batches:
        scores.append(clip(batch, prompts[done : done + len(batch)]))
        done += len(batch)
        yield batch


def _clip_result(clip: ClipScore, scores: Tensor) -> dict[str, Any]:
    facts = {"model": clip.name, "sha256": clip.digest, "preprocessing": clip.preprocessing}
    return {"name": "CLIP score", "value": float(scores.mean()), "generated": len(scores), **facts}
