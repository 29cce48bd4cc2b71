"""Options that several commands share, and what they mean."""

import json
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from tempoquant.api import is_quantized, load
from tempoquant.errors import InputError, unknown
from tempoquant.exported import is_exported, load_exported
from tempoquant.files import write_whole
from tempoquant.pipelines import BareTarget, Denoiser, Target, resolve
from tempoquant.progress import Progress, RichProgress
from tempoquant.quantized import QuantizedPipeline
from tempoquant.runtime import ENGINES

Model = Annotated[str, typer.Argument(help="fashion32, a diffusers folder, a .ckpt, a hub id, or FILE.py:FACTORY")]
Folder = Annotated[str, typer.Argument(help="a folder that `tempoquant quantize` wrote, or a full-precision model")]
Factory = Annotated[str | None, typer.Option("--denoiser", help="FILE.py:FACTORY of a folder's bare denoiser")]
Seed = Annotated[int, typer.Option(help="seed of the initial noise")]
Json = Annotated[Path | None, typer.Option("--json", help="also write the result to this file")]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="replace existing output")]
Resume = Annotated[
    bool,
    typer.Option("--resume", help="never drop another job's unfinished work; the same job always continues its own"),
]
KeepGenerators = Annotated[
    bool, typer.Option("--keep-generators", help="keep TDQ's interval networks, to make tables for other schedules")
]
Steps = Annotated[int | None, typer.Option(help="sampling steps; the folder's own schedule if not given")]
SAMPLER_HELP = "ddim, ddim-quadratic, plms, dpm++ or ddpm; the model's own if not given"
Sampler = Annotated[str | None, typer.Option(help=SAMPLER_HELP)]
Engine = Annotated[str, typer.Option(help=f"what computes quantized layers: {', '.join(ENGINES)}")]
Plugins = Annotated[
    list[Path] | None, typer.Option("--plugin", help="a Python file with methods of your own; may be repeated")
]
BatchSize = Annotated[int, typer.Option(help="samples computed together")]

DEFAULT_STEPS = 50
WIDE = 140


def progress() -> Progress:
    """The terminal's progress bars."""
    return RichProgress()


def open_model(name: str, factory: str | None = None, engine: str = "auto") -> tuple[Target, QuantizedPipeline | None]:
    """The model called ``name``, and the quantized pipeline around it if it is a quantized folder."""
    if engine not in ENGINES:
        raise unknown("engine", engine, ENGINES)
    if is_quantized(Path(name)):
        quantized = load(name, denoiser=None if factory is None else bare_denoiser(factory), engine=engine)
        return quantized.target, quantized
    if is_exported(Path(name)):
        return load_exported(name), None
    return resolve(name), None


def bare_denoiser(factory: str) -> Denoiser:
    """The denoiser that ``FILE.py:FACTORY`` makes."""
    target = resolve(factory)
    if not isinstance(target, BareTarget):
        raise InputError(f"{factory} makes a pipeline, where a bare denoiser is needed")
    return target.denoiser


def schedule(quantized: QuantizedPipeline | None, steps: int | None, sampler: str | None) -> dict[str, Any]:
    """Steps, sampler and eta to draw with: as given, else those the folder's tables were made for."""
    if quantized is None:
        return {"steps": DEFAULT_STEPS if steps is None else steps, "sampler": sampler, "eta": 0.0}
    own = quantized.schedule
    return {**own, "steps": own["steps"] if steps is None else steps, "sampler": sampler or own["sampler"]}


def write_json(path: Path | None, result: Any) -> None:
    """Write a result where the user asked for it."""
    if path is not None:
        write_whole(path, json.dumps(result, indent=2) + "\n")


def told_size(size: dict[str, Any]) -> str:
    """A stored denoiser's bytes, of which interval networks are named."""
    networks = f"; {size['networks'] / 1e6:.2f} MB are interval networks" if size.get("networks") else ""
    return f"{size['total'] / 1e6:.2f} MB ({size['ratio']:.2f}x smaller than float32{networks})"


def console() -> Console:
    """Standard output; wide enough for every table where it is no terminal, so that nothing is cut in a log."""
    found = Console(highlight=False)
    return found if found.is_terminal else Console(highlight=False, width=WIDE)
