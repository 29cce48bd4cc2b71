"""What conditional models draw from, as the command line gives it: prompts from a file, class labels, guidance."""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import torch
import typer

from tempoquant.errors import InputError
from tempoquant.pipelines import BareModel, Model, read_prompts
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


def conditioning_of(
    target: Model,
    samples: int,
    prompts: Path | None,
    classes: str | None,
    guidance: float | None,
    quantized: QuantizedPipeline | None = None,
) -> dict[str, Any] | None:
    """The ``conditioning`` of ``target.generate`` for so many samples, or None for an unconditional model.

    Args:
        quantized: the folder to draw from; the guidance scale it was calibrated for stands in for one not given.

    Raises:
        InputError: a flag is missing or does not fit the model, or its value is not valid.
    """
    given: dict[str, Sequence[Any]] = {}
    if prompts is not None:
        given["prompt"] = read_prompts(prompts)
    if classes is not None:
        given["class_labels"] = read_classes(classes)
    _check_flags(target, given)
    made: dict[str, Any] = {n: [values[i % len(values)] for i in range(samples)] for n, values in given.items()}
    if isinstance(target, BareModel):
        made = {name: torch.tensor(values) for name, values in made.items()}
    scale = _guidance(target, guidance, quantized)
    if scale is not None:
        made["guidance_scale"] = scale
    target.check_conditioning(made or None, samples)
    return made or None


def every_condition_of(
    target: Model, prompts: Path | None, classes: str | None, guidance: float | None
) -> dict[str, Any] | None:
    """:func:`conditioning_of` a sample for each of these prompts or classes; None if there are neither."""
    if prompts is None and classes is None:
        return None
    count = len(read_classes(classes or "") if prompts is None else read_prompts(prompts))
    return conditioning_of(target, count, prompts, classes, guidance)


def read_classes(text: str) -> list[int]:
    """Class labels, such as ``0,1,2``; InputError if they are anything else."""
    try:
        labels = [int(part) for part in text.split(",")]
    except ValueError:
        labels = [-1]
    if min(labels) < 0:
        raise InputError(f"--classes {text!r}: whole numbers from 0, separated by commas, are needed")
    return labels


def _check_flags(target: Model, given: dict[str, Sequence[Any]]) -> None:
    bare = isinstance(target, BareModel)
    wanted = "class_labels" if bare else getattr(target, "condition", None)
    for name in given:
        if name != wanted:
            flag = FLAGS[name].split()[0]
            instead = _hint(wanted) + " instead" if wanted else "it is unconditional"
            raise InputError(f"{target.name} takes no {flag}: {instead}")
    if not bare and wanted and wanted not in given:
        raise InputError(f"{target.name} draws from {DRAWN_FROM.get(wanted, wanted)}: {_hint(wanted)}")
    if bare and not given:
        try:
            target.check_conditioning(None, 1)
        except InputError as error:
            raise (InputError(f"{error}: {_hint(wanted)}") if f"'{wanted}'" in str(error) else error) from None


def _hint(wanted: str | None) -> str:
    python = f"quantize it in Python, with conditioning={{{wanted!r}: [...]}}"
    return f"give {FLAGS[wanted]}" if wanted in FLAGS else python


def _guidance(target: Model, guidance: float | None, quantized: QuantizedPipeline | None) -> float | None:
    own = {} if quantized is None else quantized.facts.get("conditioning", {})
    if guidance is None:
        return own.get("guidance_scale")
    if not 0 <= guidance < math.inf:
        raise InputError(f"--guidance {guidance} is out of range: 0 or more")
    if not target.conditional:
        raise InputError(f"{target.name} takes no --guidance: its denoiser is called once a step")
    return guidance
