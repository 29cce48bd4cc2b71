"""Feature statistics of a set of images: Gaussians, and the single feature vectors that some metrics need."""

import hashlib
import json
from collections.abc import Collection, Iterable, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from tempoquant.caches import user_cache
from tempoquant.documents import parse_json
from tempoquant.errors import FormatError, InputError
from tempoquant.evaluation.extractors import FeatureExtractor
from tempoquant.evaluation.images import ImageSet
from tempoquant.evaluation.moments import Gaussian, Moments
from tempoquant.files import save_tensors
from tempoquant.progress import Advance, Progress, Silent

BATCH = 64
FITTED = ("pooled", "spatial")
"""The outputs that Gaussians are fitted to."""
FORMAT = "tempoquant-statistics-1"


@dataclass(frozen=True)
class Provenance:
    """Extractor and images that statistics were computed from; only statistics of equal extractors are comparable.

    Attributes:
        extractor: name of the feature extractor.
        sha256: of its weights.
        preprocessing: of its images, in words.
        shape: (H, W, C) of the images.
        content: SHA-256 of the images; empty for generated ones.
    """

    extractor: str
    sha256: str
    preprocessing: str
    shape: tuple[int, ...]
    content: str = ""

    @classmethod
    def of(cls, extractor: FeatureExtractor, shape: Iterable[int], content: str = "") -> "Provenance":
        """The provenance of statistics of images of a shape (H, W, C), computed with ``extractor``."""
        return cls(extractor.name, extractor.digest, extractor.preprocessing, tuple(shape), content)


@dataclass(frozen=True)
class Statistics:
    """Feature statistics of a set of images.

    Attributes:
        source: name of the set in reports.
        provenance: extractor and images; None for a ``.npz`` of statistics, which names neither.
        gaussians: by output: ``pooled``, and ``spatial`` if the extractor has it.
        rows: single feature vectors (N, D) float32 by output, for the requested outputs.
    """

    source: str
    provenance: Provenance | None
    gaussians: dict[str, Gaussian]
    rows: dict[str, Tensor] = field(default_factory=dict)

    @property
    def count(self) -> int | None:
        """Images that the Gaussians were fitted to; None if a file does not say."""
        return self.gaussians["pooled"].count


def compute_statistics(
    batches: Iterable[Tensor],
    extractor: FeatureExtractor,
    *,
    rows: Collection[str] = (),
    source: str = "the given images",
    content: str = "",
) -> Statistics:
    """Compute statistics of images batch by batch; memory holds moments and the requested feature vectors alone.

    Args:
        batches: (N, H, W, C) uint8 each, at least two images in all.
        extractor: computes the features.
        rows: outputs whose single feature vectors are kept.
        source: name of the set in reports and messages.
        content: SHA-256 of the images, if known.

    Raises:
        InputError: fewer than two images.
    """
    moments = {kind: Moments() for kind in FITTED if kind in extractor.outputs}
    vectors_by_output: dict[str, list[Tensor]] = {kind: [] for kind in rows}
    shape: tuple[int, ...] = ()
    for images in batches:
        shape = tuple(images.shape[1:])
        features = extractor(images.permute(0, 3, 1, 2))
        for kind, moment in moments.items():
            moment.update(features[kind])
        for kind, vectors in vectors_by_output.items():
            vectors.append(features[kind])
    if moments["pooled"].count < 2:
        raise InputError(f"{source}: at least two images are needed, not {moments['pooled'].count}")
    gaussians = {kind: moment.fitted() for kind, moment in moments.items()}
    provenance = Provenance.of(extractor, shape, content)
    return Statistics(
        source, provenance, gaussians, {kind: torch.cat(vectors) for kind, vectors in vectors_by_output.items()}
    )


def cached_statistics(
    images: ImageSet,
    extractor: FeatureExtractor,
    *,
    rows: Collection[str] = (),
    cache: Path | None = None,
    progress: Progress | None = None,
) -> Statistics:
    """Statistics of a set of images, read from ``cache`` if it holds those of this content and extractor.

    A cached file is never replaced: its name is a hash of all that it depends on.

    Args:
        images: the set.
        extractor: computes the features.
        rows: outputs whose single feature vectors are kept.
        cache: folder of cached statistics; None to compute them and store nothing.
        progress: advanced by the images.

    Raises:
        FormatError: the cached file is damaged.
        InputError: fewer than two images.
    """
    provenance = Provenance.of(extractor, images.shape, images.digest())
    path = None if cache is None else cache / f"{_key(provenance, rows)}.safetensors"
    if path is not None and path.is_file():
        stored = load_statistics(path)
        if stored.provenance != provenance:
            raise FormatError(f"{path} holds other statistics than its name says: delete it")
        return Statistics(images.name, provenance, stored.gaussians, stored.rows)
    with (progress or Silent()).stage("reference features", len(images)) as advance:
        batches = advancing(images.batches(BATCH), advance)
        content = provenance.content
        statistics = compute_statistics(batches, extractor, rows=rows, source=images.name, content=content)
    if path is not None:
        path.parent.mkdir(parents=True, exist_ok=True)
        save_statistics(statistics, path)
    return statistics


def save_statistics(statistics: Statistics, path: Path) -> None:
    """Write statistics as safetensors, whole or not at all; a file that exists is left as it is.

    Raises:
        InputError: statistics without provenance, of a ``.npz``.
    """
    if statistics.provenance is None:
        raise InputError(
            f"statistics of {statistics.source} do not name their extractor and images: only statistics computed by "
            "this package can be saved"
        )
    tensors = {f"rows.{kind}": vectors.contiguous() for kind, vectors in statistics.rows.items()}
    for kind, gaussian in statistics.gaussians.items():
        tensors |= {f"{kind}.mean": gaussian.mean, f"{kind}.covariance": gaussian.covariance.contiguous()}
    facts = {"format": FORMAT, "count": statistics.count, "source": statistics.source, **asdict(statistics.provenance)}
    if not path.exists():
        save_tensors(tensors, path, {"statistics": json.dumps(facts)})


def load_statistics(path: Path) -> Statistics:
    """Read what :func:`save_statistics` wrote.

    Raises:
        FormatError: the file is foreign or damaged.
    """
    try:
        with safe_open(path, framework="pt") as file:
            facts = parse_json((file.metadata() or {})["statistics"])
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        if facts.pop("format") != FORMAT:
            raise KeyError
        source, count = facts.pop("source"), facts.pop("count")
        provenance = Provenance(**facts | {"shape": tuple(facts["shape"])})
        kinds = [kind for kind in FITTED if f"{kind}.mean" in tensors]
        gaussians = {k: Gaussian(tensors[f"{k}.mean"], tensors[f"{k}.covariance"], count) for k in kinds}
    except (SafetensorError, KeyError, TypeError, ValueError):
        raise FormatError(f"{path} holds no statistics of this package, or is damaged") from None
    rows = {name.removeprefix("rows."): value for name, value in tensors.items() if name.startswith("rows.")}
    return Statistics(source, provenance, gaussians, rows)


def advancing(batches: Iterable[Tensor], advance: Advance) -> Iterator[Tensor]:
    """Yield the batches; call ``advance`` with the length of each after it was used."""
    for batch in batches:
        yield batch
        advance(len(batch))


def default_cache() -> Path | None:
    """Default folder of cached statistics; None for a user without a home folder."""
    cache = user_cache()
    return None if cache is None else cache / "statistics"


def _key(provenance: Provenance, rows: Collection[str]) -> str:
    return hashlib.sha256(json.dumps([FORMAT, asdict(provenance), sorted(rows)]).encode()).hexdigest()[:32]
