"""What conditional models draw from, as the command line gives it: prompts from a file, class labels, guidance."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from tempoquant.errors import InputError
from tempoquant.pipelines import read_prompts

if TYPE_CHECKING:
    from tempoquant.pipelines import Model
    from tempoquant.quantized import QuantizedPipeline

Prompts = Annotated[
    Path | None,
    typer.Option("--prompts", help="prompts, one a line, or a .csv or .tsv file with a column prompt; used in turn"),
]
Classes = Annotated[str | None, typer.Option("--classes", help="class labels, such as 0,1,2; used in turn")]
Guidance = Annotated[
    float | None, typer.Option("--guidance", help="guidance scale; the folder's own, else the pipeline's, if not given")
]

DRAWN_FROM = {"prompt": "prompts", "class_labels": "classes"}
FLAGS = {"prompt": "--prompts FILE", "class_labels": "--classes 0,1,2"}


@dataclass(frozen=True)
class ConditioningFlags:
    """Values of ``--prompts``, ``--classes`` and ``--guidance``, checked as far as no model is needed.

    Raises:
        InputError: a value is not valid.
    """

    prompts: Path | None = None
    classes: str | None = None
    guidance: float | None = None

    def __post_init__(self) -> None:
        _ = self.lists
        if self.guidance is not None and not 0 <= self.guidance < math.inf:
            raise InputError(f"--guidance {self.guidance} is out of range: 0 or more")

    @property
    def lists(self) -> dict[str, Sequence[Any]]:
        """The prompts or class labels by the keyword of the pipeline's call; empty without any."""
        prompts = {} if self.prompts is None else {"prompt": read_prompts(self.prompts)}
        return prompts | ({} if self.classes is None else {"class_labels": read_classes(self.classes)})


def conditioning_of(
    target: "Model", samples: int, flags: ConditioningFlags, quantized: "QuantizedPipeline | None" = None
) -> dict[str, Any] | None:
    """The ``conditioning`` of ``target.generate`` for so many samples, or None for an unconditional model.

    Args:
        target: the model to draw from.
        samples: how many are drawn; prompts and labels are used in turn.
        flags: of the command line.
        quantized: the folder to draw from; the guidance scale it was calibrated for stands in for one not given.

    Raises:
        InputError: a flag is missing or does not fit the model.
    """
    import torch

    from tempoquant.pipelines import BareModel

    lists = flags.lists
    _check_flags(target, lists)
    found: dict[str, Any] = {n: [values[i % len(values)] for i in range(samples)] for n, values in lists.items()}
    if isinstance(target, BareModel):
        found = {name: torch.tensor(values) for name, values in found.items()}
    scale = _guidance(target, flags.guidance, quantized)
    if scale is not None:
        found["guidance_scale"] = scale
    target.check_conditioning(found or None, samples)
    return found or None


def every_condition_of(target: "Model", flags: ConditioningFlags) -> dict[str, Any] | None:
    """:func:`conditioning_of` a sample for each of these prompts or classes; None if there are neither."""
    lists = flags.lists
    return conditioning_of(target, len(next(iter(lists.values()))), flags) if lists else None


def read_classes(text: str) -> list[int]:
    """Class labels, such as ``0,1,2``; InputError if they are anything else."""
    try:
        labels = [int(part) for part in text.split(",")]
    except ValueError:
        labels = [-1]
    if min(labels) < 0:
        raise InputError(f"--classes {text!r}: whole numbers from 0, separated by commas, are needed")
    return labels


def _check_flags(target: "Model", lists: dict[str, Sequence[Any]]) -> None:
    from tempoquant.pipelines import BareModel

    bare = isinstance(target, BareModel)
    wanted = "class_labels" if bare else getattr(target, "condition", None)
    for name in lists:
        if name != wanted:
            flag = FLAGS[name].split()[0]
            instead = _hint(wanted) + " instead" if wanted else "it is unconditional"
            raise InputError(f"{target.name} takes no {flag}: {instead}")
    if not bare and wanted and wanted not in lists:
        raise InputError(f"{target.name} draws from {DRAWN_FROM.get(wanted, wanted)}: {_hint(wanted)}")
    if bare and not lists:
        try:
            target.check_conditioning(None, 1)
        except InputError as error:
            raise (InputError(f"{error}: {_hint(wanted)}") if f"'{wanted}'" in str(error) else error) from None


def _hint(wanted: str | None) -> str:
    python = f"quantize it in Python, with conditioning={{{wanted!r}: [...]}}"
    return f"give {FLAGS[wanted]}" if wanted in FLAGS else python


def _guidance(target: "Model", guidance: float | None, quantized: "QuantizedPipeline | None") -> float | None:
    own = {} if quantized is None else quantized.facts.get("conditioning", {})
    if guidance is None:
        return own.get("guidance_scale")
    if not target.conditional:
        raise InputError(f"{target.name} takes no --guidance: its denoiser is called once a step")
    return guidance
