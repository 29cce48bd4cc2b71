"""Options that several commands share, and what they mean."""

import json
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from tempoquant.api import is_quantized, load
from tempoquant.errors import InputError, unknown
from tempoquant.exporting import is_exported, load_exported
from tempoquant.files import write_whole
from tempoquant.kernels import ENGINES
from tempoquant.outputs import check_new
from tempoquant.pipelines import BareModel, Model, resolve
from tempoquant.progress import Progress, RichProgress
from tempoquant.quantized import QuantizedPipeline
from tempoquant.recipe import MOST, Recipe
from tempoquant.sampling import Denoiser

COUNT: dict[str, Any] = {"min": 1, "max": MOST}
COUNT_OR_0: dict[str, Any] = {"min": 0, "max": MOST}

ModelName = Annotated[str, typer.Argument(help="fashion32, a diffusers folder, a .ckpt, a hub id, or FILE.py:FACTORY")]
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
Steps = Annotated[int | None, typer.Option(**COUNT, help="sampling steps; the folder's own schedule if not given")]
SAMPLER_HELP = "ddim, ddim-quadratic, plms, dpm++ or ddpm; the model's own if not given"
Sampler = Annotated[str | None, typer.Option(help=SAMPLER_HELP)]
Engine = Annotated[str, typer.Option(help=f"what computes quantized layers: {', '.join(ENGINES)}")]
Plugins = Annotated[
    list[Path] | None, typer.Option("--plugin", help="a Python file with methods of your own; may be repeated")
]
BatchSize = Annotated[int, typer.Option(**COUNT, help="samples computed together")]

DEFAULT_STEPS = 50
IN_A_RECIPE = ("method", "weights", "activations", "samples", "steps", "sampler", "seed")
WIDE = 140


def progress() -> Progress:
    """The terminal's progress bars."""
    return RichProgress()


def flag_in_use(context: typer.Context, *names: str) -> str | None:
    """The first of these parameters that the command line gives, as it is written there; None if it gives none."""
    for parameter in context.command.params:
        source = context.get_parameter_source(parameter.name or "")
        if parameter.name in names and source is not None and source.name == "COMMANDLINE":
            return parameter.opts[-1]
    return None


def recipe_file(context: typer.Context, path: Path, *decided: str) -> Recipe:
    """The recipe of ``--recipe``; InputError if an option is given too whose value the file decides.

    Args:
        decided: parameters of the command that are such options, beside those of ``IN_A_RECIPE``.
    """
    flag = flag_in_use(context, *IN_A_RECIPE, *decided)
    if flag is not None:
        raise InputError(f"{flag} beside --recipe {path}: the file decides that, so change it there")
    return Recipe.from_file(path)


def check_json(path: Path | None, overwrite: bool, *others: Path | None) -> None:
    """Refuse a ``--json`` file that cannot be written, or that would take the place of another output."""
    if path is None:
        return
    if any(other is not None and other.absolute() == path.absolute() for other in others):
        raise InputError(f"--json {path} is written by another option too: give it a name of its own")
    check_new(path, overwrite)


def check_not_input(out: Path, model: str) -> None:
    """Refuse an output folder that is the model itself, which ``--overwrite`` would replace."""
    if Path(model).exists() and out.exists() and out.samefile(model):
        raise InputError(f"-o {out} is the model that is read: choose another folder")


def check_folder_place(flag: str, path: Path | None) -> None:
    """Refuse a folder to make or reuse, with its parents, where a file stands in the way."""
    if path is None:
        return
    place = next(p for p in (path, *path.absolute().parents) if p.exists())
    if not place.is_dir():
        raise InputError(f"{flag} {path}: {place} is no folder")


def open_model(name: str, factory: str | None = None, engine: str = "auto") -> tuple[Model, QuantizedPipeline | None]:
    """The model called ``name``, and the quantized pipeline around it if it is a quantized folder.

    Raises:
        InputError: there is no such model, or an option is of no use for it.
    """
    if engine not in ENGINES:
        raise unknown("engine", engine, ENGINES)
    if is_quantized(Path(name)):
        quantized = load(name, denoiser=filling_denoiser(name, factory), engine=engine)
        return quantized.target, quantized
    for flag, void in {"--denoiser": factory is not None, "--engine": engine != "auto"}.items():
        if void:
            raise InputError(f"{flag} is for quantized folders: {name} is none")
    if is_exported(Path(name)):
        return load_exported(name), None
    return resolve(name), None


def filling_denoiser(folder: str, factory: str | None) -> Denoiser | None:
    """The denoiser that ``FILE.py:FACTORY`` makes for a folder of a bare one; None without a factory."""
    if factory is None:
        return None
    if Path(folder).is_dir() and not (Path(folder) / "denoiser").is_dir():
        raise InputError(f"--denoiser {factory} is for folders of a bare denoiser: {folder} holds a pipeline")
    target = resolve(factory)
    if not isinstance(target, BareModel):
        raise InputError(f"{factory} makes a pipeline, where a bare denoiser is needed")
    return target.denoiser


def schedule(quantized: QuantizedPipeline | None, steps: int | None, sampler: str | None) -> dict[str, Any]:
    """Steps, sampler and eta to draw with: as given, else those the folder's tables were made for."""
    if quantized is None:
        return {"steps": DEFAULT_STEPS if steps is None else steps, "sampler": sampler, "eta": 0.0}
    own = quantized.schedule
    return {
        **own,
        "steps": own["steps"] if steps is None else steps,
        "sampler": own["sampler"] if sampler is None else sampler,
    }


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
