"""What metrics keep of a set of images: fitted Gaussians, and single features where a metric needs them."""

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
class Made:
    """How statistics came to be; equal ones compare.

    Attributes:
        extractor, sha256, preprocessing: of the feature extractor.
        shape: (H, W, C) of the images. content: SHA-256 of the images, empty for images that were drawn.
    """

    extractor: str
    sha256: str
    preprocessing: str
    shape: tuple[int, ...]
    content: str = ""

    @classmethod
    def by(cls, extractor: FeatureExtractor, shape: Iterable[int], content: str = "") -> "Made":
        return cls(extractor.name, extractor.digest, extractor.preprocessing, tuple(shape), content)


@dataclass(frozen=True)
class Statistics:
    """A set of images, as far as metrics see it.

    Attributes:
        source: what reports call the set.
        made: how; None for a ``.npz`` of statistics, which does not say.
        gaussians: for ``pooled``, and ``spatial`` if the extractor gives it.
        rows: single vectors (N, D) float32 by output, for those that were asked for.
    """

    source: str
    made: Made | None
    gaussians: dict[str, Gaussian]
    rows: dict[str, Tensor] = field(default_factory=dict)

    @property
    def count(self) -> int | None:
        """Images that the Gaussians were fitted to; None if a file does not say."""
        return self.gaussians["pooled"].count


def gather(
    batches: Iterable[Tensor],
    extractor: FeatureExtractor,
    *,
    rows: Collection[str] = (),
    source: str = "the given images",
    content: str = "",
) -> Statistics:
    """Statistics of images that come in batches; only moments and the rows asked for are kept.

    Args:
        batches: (N, H, W, C) uint8 each, at least two images in all.
        rows: outputs whose single vectors are kept.

    Raises:
        InputError: fewer than two images.
    """
    moments = {kind: Moments() for kind in FITTED if kind in extractor.outputs}
    kept: dict[str, list[Tensor]] = {kind: [] for kind in rows}
    shape: tuple[int, ...] = ()
    for images in batches:
        shape = tuple(images.shape[1:])
        found = extractor(images.permute(0, 3, 1, 2))
        for kind, moment in moments.items():
            moment.update(found[kind])
        for kind, vectors in kept.items():
            vectors.append(found[kind])
    if moments["pooled"].count < 2:
        raise InputError(f"{source}: at least two images are needed, not {moments['pooled'].count}")
    gaussians = {kind: moment.fitted() for kind, moment in moments.items()}
    made = Made.by(extractor, shape, content)
    return Statistics(source, made, gaussians, {kind: torch.cat(vectors) for kind, vectors in kept.items()})


def cached(
    images: ImageSet,
    extractor: FeatureExtractor,
    *,
    rows: Collection[str] = (),
    cache: Path | None = None,
    progress: Progress | None = None,
) -> Statistics:
    """Statistics of a set of images, read from ``cache`` if it holds those of this content and extractor.

    A file there is never replaced: its name is a hash of all that it depends on.

    Raises:
        FormatError: the cached file is damaged. InputError: fewer than two images.
    """
    made = Made.by(extractor, images.shape, images.digest())
    path = None if cache is None else cache / f"{_key(made, rows)}.safetensors"
    if path is not None and path.is_file():
        found = load_statistics(path)
        if found.made != made:
            raise FormatError(f"{path} holds other statistics than its name says: delete it")
        return Statistics(images.name, made, found.gaussians, found.rows)
    with (progress or Silent()).stage("reference features", len(images)) as advance:
        batches = told(images.batches(BATCH), advance)
        found = gather(batches, extractor, rows=rows, source=images.name, content=made.content)
    if path is not None:
        path.parent.mkdir(parents=True, exist_ok=True)
        save_statistics(found, path)
    return found


def save_statistics(statistics: Statistics, path: Path) -> None:
    """Write statistics as safetensors, whole or not at all; a file that exists is left as it is."""
    if statistics.made is None:
        raise InputError(f"statistics of {statistics.source} say not how they were made: they cannot be saved")
    tensors = {f"rows.{kind}": vectors.contiguous() for kind, vectors in statistics.rows.items()}
    for kind, gaussian in statistics.gaussians.items():
        tensors |= {f"{kind}.mean": gaussian.mean, f"{kind}.covariance": gaussian.covariance.contiguous()}
    facts = {"format": FORMAT, "count": statistics.count, "source": statistics.source, **asdict(statistics.made)}
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
        made = Made(**facts | {"shape": tuple(facts["shape"])})
        kinds = [kind for kind in FITTED if f"{kind}.mean" in tensors]
        gaussians = {k: Gaussian(tensors[f"{k}.mean"], tensors[f"{k}.covariance"], count) for k in kinds}
    except (SafetensorError, KeyError, TypeError, ValueError):
        raise FormatError(f"{path} holds no statistics of this package, or is damaged") from None
    rows = {name.removeprefix("rows."): value for name, value in tensors.items() if name.startswith("rows.")}
    return Statistics(source, made, gaussians, rows)


def told(batches: Iterable[Tensor], advance: Advance) -> Iterator[Tensor]:
    """The same batches; ``advance`` is told of each once it was used."""
    for batch in batches:
        yield batch
        advance(len(batch))


def default_cache() -> Path | None:
    """Where statistics of references are kept unless the user names a folder; None where there is no home."""
    cache = user_cache()
    return None if cache is None else cache / "statistics"


def _key(made: Made, rows: Collection[str]) -> str:
    return hashlib.sha256(json.dumps([FORMAT, asdict(made), sorted(rows)]).encode()).hexdigest()[:32]
