"""An experiment as data: a model, a schedule, what to calibrate and evaluate with, runs, and published numbers."""

import re
from collections.abc import Iterator
from importlib.resources import files
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field, ValidationError, model_validator

from tempoquant.documents import read_yaml
from tempoquant.errors import InputError, unknown
from tempoquant.evaluation import EXTRACTORS
from tempoquant.recipe import MOST, WIDTHS, Count, Part, refused
from tempoquant.sampling import check_sampler

BITS = re.compile(r"W(\d+)A(\d+)")
BUILT_IN = Path(str(files("tempoquant"))) / "experiments"
DEFAULT = BUILT_IN / "_default.yaml"
"""The experiment on a model that somebody brings without one."""


def parse_bits(text: str) -> tuple[int, int]:
    """Weight and activation bits of a name such as ``W4A8``; 32 is float.

    Raises:
        InputError: it is no such name, or a width is not supported.
    """
    match = BITS.fullmatch(text)
    if not match or any(int(width) not in WIDTHS for width in match.groups()):
        raise InputError(f"bits {text!r}: W4A8 and the like are valid, with 2 to 8, 16, or 32 for float")
    return int(match[1]), int(match[2])


def _known_bits(text: str) -> str:
    parse_bits(text)
    return text


def _known_sampler(name: str | None) -> str | None:
    return None if name is None else check_sampler(name)


def _known_extractor(name: str) -> str:
    if name not in EXTRACTORS:
        raise unknown("feature extractor", name, EXTRACTORS)
    return name


def _file_name(name: str) -> str:
    if Path(name).name != name:
        raise ValueError(f"{name!r} is no plain name: results are written into a folder that is called so")
    return name


Bits = Annotated[str, AfterValidator(_known_bits)]


class ClassRange(Part):
    """The class labels ``first, first + step, ... last``."""

    first: int = Field(0, ge=0, le=MOST)
    last: int = Field(ge=0, le=MOST)
    step: Count = 1


Classes = ClassRange | tuple[Annotated[int, Field(ge=0)], ...]


class Conditioning(Part):
    """What a conditional model draws from. ``prompts``: a file, one prompt a line, or a table's column ``prompt``.

    Entries are used in turn: calibration takes the first ones, evaluation those that follow.
    """

    prompts: str | None = None
    classes: Classes | None = None
    guidance: float | None = Field(None, ge=0)


class Calibration(Part):
    """How much is recorded and read; see :class:`tempoquant.recipe.Calibration`."""

    samples: Count = 64
    rows: Count = 128
    rows_per_step: Count = 8
    dtype: Literal["float16", "float32"] = "float16"


class Distribution(Part):
    """Metrics of many of the quantized model's samples.

    Attributes:
        features: name of the extractor; of no use to ``clip`` alone.
        samples: how many are drawn.
        metrics: of fd (FID), sfd (sFID), is, kid, pr (precision and recall), clip.
        reference: a folder or ``.npz`` of real images, or of their statistics; if not given, those metrics that
            compare do so with the full-precision model's own samples.
        weights: a local file of the extractor's weights.
        clip: CLIP model, a local folder or hub id.
    """

    features: Annotated[str, AfterValidator(_known_extractor)] | None = None
    samples: int = Field(512, ge=2, le=MOST)
    metrics: tuple[str, ...] = Field(("fd",), min_length=1)
    reference: str | None = None
    weights: str | None = None
    clip: str | None = None

    def entries(self) -> dict[str, Any]:
        """As JSON data; those that came later only where they are set, so that names made of them stay."""
        return self.model_dump(mode="json", include={"features", "samples"}) | self.model_dump(
            mode="json", exclude_defaults=True
        )


class Evaluation(Part):
    """What runs are judged by. ``images``: paired ones; ``noise_samples``: those whose predicted noise is compared.

    ``seed`` of the evaluated noise, one for all runs; ``classes`` other than those of calibration.
    """

    images: Count = 16
    noise_samples: Count = 8
    batch_size: Count = 16
    seed: int = 1000
    classes: Classes | None = None
    distribution: Distribution | None = None

    def entries(self) -> dict[str, Any]:
        """As JSON data; see :meth:`Distribution.entries`."""
        many = None if self.distribution is None else self.distribution.entries()
        return self.model_dump(mode="json", exclude={"distribution"}) | {"distribution": many}

    @model_validator(mode="after")
    def _enough(self) -> "Evaluation":
        if self.noise_samples > self.images:
            raise ValueError(f"noise_samples {self.noise_samples} is out of range: 1 to {self.images}, the images")
        return self


class RunSpec(Part):
    """One method at some bits.

    Attributes:
        method: that is run.
        bits: that it is run at, one run each.
        reading: of its recipe; unset: that of the experiment's ``recipe``, else "paper".
        effort: likewise, else "fast".
        label: its name in tables.
        recipe: entries that differ from the method's.
    """

    method: str
    bits: tuple[Bits, ...] = Field(min_length=1)
    reading: str | None = None
    effort: str | None = None
    label: str | None = None
    recipe: dict[str, Any] = Field(default_factory=dict)

    @property
    def name(self) -> str:
        """Its name in tables, e.g. ``tfmq-dm released``."""
        parts = (self.method, self.reading, self.effort)
        return self.label or " ".join(part for part in parts if part not in (None, "paper", "fast"))


class Published(Part):
    """Numbers that somebody published; ``bits`` unset for full precision. Cited, never ours."""

    method: str
    bits: Bits | None = None
    metrics: dict[str, float]
    source: str | None = None


class Experiment(Part):
    """Everything that decides a comparison.

    Attributes:
        name: of its file.
        source: where its settings and targets come from.
        data: images that methods which train do so on, as `tempoquant train --data` takes them; unset: distillation.
        recipe: entries of every run's recipe, but where the run says another.
        sort: the metric that rows are ordered by, a column of the tables.
        paper_schedule: whether to estimate what each run would take at ``effort: paper``.
    """

    name: Annotated[str, AfterValidator(_file_name)]
    title: str = ""
    source: str = ""
    model: str | None = None
    sampler: Annotated[str | None, AfterValidator(_known_sampler)] = None
    steps: Count = 50
    eta: float = Field(0.0, ge=0, le=1)
    conditioning: Conditioning = Conditioning()
    calibration: Calibration = Field(default_factory=lambda: Calibration.model_validate({}))
    evaluation: Evaluation = Field(default_factory=lambda: Evaluation.model_validate({}))
    seeds: tuple[int, ...] = Field((0,), min_length=1)
    data: str | None = None
    recipe: dict[str, Any] = Field(default_factory=dict)
    runs: tuple[RunSpec, ...] = Field(min_length=1)
    targets: tuple[Published, ...] = ()
    sort: str = "PSNR dB"
    paper_schedule: bool = False

    @model_validator(mode="after")
    def _separate_noise(self) -> "Experiment":
        if self.evaluation.seed in self.seeds:
            raise ValueError(f"seed {self.evaluation.seed} is one of calibration and of evaluation: use another")
        if len(set(self.seeds)) < len(self.seeds):
            raise ValueError(f"seeds {list(self.seeds)} repeat one")
        return self


def load_experiment(named: str, **changes: Any) -> Experiment:
    """The experiment of a YAML file, a built-in one by its name, or the default one on a model of ``FILE.py:FACTORY``.

    Args:
        named: the file, the name, or the factory of a model.
        changes: top-level entries in the place of the file's; None leaves it as it is, mappings are merged.

    Raises:
        InputError: one line that names the file and its first wrong entry.
    """
    entries = {key: value for key, value in changes.items() if value is not None}
    path, _, factory = named.rpartition(":")
    if path.endswith(".py"):
        if "model" in entries:
            raise InputError(f"{named} is the model: {entries['model']!r} beside it is one too many")
        return _validated(DEFAULT, merged(_read(DEFAULT, ()), {**entries, "name": factory, "model": named}))
    return _validated(_find(named), merged(_read(_find(named), ()), entries))


def _validated(path: Path, data: dict[str, Any]) -> Experiment:
    """The experiment of these entries; errors name the file."""
    try:
        return Experiment.model_validate({"name": path.stem, **data})
    except ValidationError as error:
        raise refused(error, Experiment, path.name) from None


def built_in() -> list[str]:
    """The names of the experiments that come with the package."""
    return sorted(path.stem for path in BUILT_IN.glob("*.yaml") if not path.name.startswith("_"))


def _find(named: str) -> Path:
    path = Path(named)
    if path.suffix in (".yaml", ".yml"):
        if not path.is_file():
            raise InputError(f"no experiment file {named!r}")
        return path
    if named not in built_in():
        raise unknown("experiment", named, [*built_in(), "FILE.yaml", "FILE.py:FACTORY"])
    return BUILT_IN / f"{named}.yaml"


def _read(path: Path, extended: tuple[Path, ...]) -> dict[str, Any]:
    """A file's entries, upon those of the experiments it extends: one, or several of which later ones win."""
    if path.resolve() in extended:
        raise InputError(f"{path.name}: extends itself")
    data = read_yaml(path, str(path))
    _beside(data, path)
    bases = data.pop("extends", [])
    below: dict[str, Any] = {}
    for base in [bases] if isinstance(bases, str) else bases:
        near = path.with_name(str(base)).with_suffix(".yaml")
        below = merged(below, _read(near if near.is_file() else _find(str(base)), (*extended, path.resolve())))
    return merged(below, data)


def _beside(data: dict[str, Any], path: Path) -> None:
    """Files that the entries name may lie beside the experiment's own."""
    evaluation = data.get("evaluation")
    many = evaluation.get("distribution") if isinstance(evaluation, dict) else None
    for entries, key in (
        (data, "model"),
        (data.get("conditioning"), "prompts"),
        *((many, key) for key in ("reference", "weights", "clip")),
    ):
        if isinstance(entries, dict) and isinstance(entries.get(key), str):
            file, colon, factory = entries[key].partition(":")
            if file and not Path(file).exists() and (path.parent / file).exists():
                entries[key] = f"{path.parent / file}{colon}{factory}"


def merged(base: dict[str, Any], changes: dict[str, Any]) -> dict[str, Any]:
    """``changes`` upon ``base``, mapping by mapping; lists are replaced."""
    both = {k: merged(base[k], v) for k, v in changes.items() if isinstance(v, dict) and isinstance(base.get(k), dict)}
    return {**base, **changes, **both}


def labels(classes: Classes | None) -> Iterator[int]:
    """The class labels, in order."""
    if isinstance(classes, ClassRange):
        yield from range(classes.first, classes.last + 1, classes.step)
    else:
        yield from classes or ()
