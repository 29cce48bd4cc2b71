"""Options that several commands share, what they mean, and which of them make others void."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from tempoquant.checkpoint import is_quantized
from tempoquant.errors import InputError
from tempoquant.exporting import is_exported
from tempoquant.files import write_whole
from tempoquant.kernels import ENGINES, backend_name
from tempoquant.outputs import check_new
from tempoquant.pipelines import check_model_name
from tempoquant.progress import Progress, RichProgress
from tempoquant.recipe import MOST, Recipe

if TYPE_CHECKING:
    from rich.console import Console

    from tempoquant.pipelines import Model
    from tempoquant.quantized import QuantizedPipeline
    from tempoquant.sampling import Denoiser

COUNT: dict[str, Any] = {"min": 1, "max": MOST}
COUNT_OR_0: dict[str, Any] = {"min": 0, "max": MOST}

ModelName = Annotated[str, typer.Argument(help="fashion32, a diffusers folder, a .ckpt, a hub id, or FILE.py:FACTORY")]
Folder = Annotated[str, typer.Argument(help="a quantized or exported folder, or a full-precision model")]
QuantizedFolder = Annotated[str, typer.Argument(help="a quantized folder")]
OutFolder = Annotated[Path, typer.Option("-o", "--out", help="folder to write")]
ReferenceModel = Annotated[str, typer.Option("--reference", help="the full-precision model")]
Factory = Annotated[str | None, typer.Option("--denoiser", help="FILE.py:FACTORY of a folder's bare denoiser")]
WeightBits = Annotated[int, typer.Option("-w", "--weights", help="weight bits: 2 to 8, 16, or 32 for float")]
ActivationBits = Annotated[int, typer.Option("-a", "--activations", help="activation bits, likewise")]
RecipeFile = Annotated[
    Path | None, typer.Option("--recipe", help="a recipe file (YAML or JSON) instead of --method and its settings")
]
Recording = Annotated[
    Path | None, typer.Option("--recording", help="folder of recorded trajectories to write or reuse")
]
Layers = Annotated[list[str] | None, typer.Option("--layer", help="a pattern of layer names; may be repeated")]
DrawSeed = Annotated[int, typer.Option("--seed", help="seed of every random draw")]
Seed = Annotated[int, typer.Option(help="seed of the initial noise")]
Json = Annotated[Path | None, typer.Option("--json", help="also write the result to this file")]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="replace existing output")]
Resume = Annotated[
    bool,
    typer.Option("--resume", help="never drop another job's unfinished work; the same job always continues its own"),
]
KeepGenerators = Annotated[
    bool, typer.Option("--keep-generators", help="keep TDQ's interval networks, to compute tables for other schedules")
]
Steps = Annotated[int | None, typer.Option(**COUNT, help="sampling steps; the folder's own schedule if not given")]
SAMPLER_HELP = "ddim, ddim-quadratic, plms, dpm++ or ddpm; the model's own if not given"
Sampler = Annotated[str | None, typer.Option(help=SAMPLER_HELP)]
Engine = Annotated[str, typer.Option(help=f"the engine that computes quantized layers: {', '.join(ENGINES)}")]
Plugins = Annotated[
    list[Path] | None,
    typer.Option("--plugin", help="a Python file of your own methods, backends, ...; may be repeated"),
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


def refuse(context: typer.Context, names: tuple[str, ...], why: str) -> None:
    """Refuse options that others make void.

    Args:
        context: of the command.
        names: parameters of the command.
        why: they are void; follows the option in the message.

    Raises:
        InputError: the command line gives one of them.
    """
    flag = flag_in_use(context, *names)
    if flag is not None:
        raise InputError(f"{flag} {why}")


def recipe_file(context: typer.Context, path: Path, *decided: str) -> Recipe:
    """The recipe of ``--recipe``; InputError if an option is given too whose value the file decides.

    Args:
        context: of the command.
        path: of the file.
        decided: parameters of the command that are such options, beside those of ``IN_A_RECIPE``.
    """
    refuse(context, (*IN_A_RECIPE, *decided), f"beside --recipe {path}: the file decides that, so change it there")
    return Recipe.from_file(path)


def check_json(path: Path | None, overwrite: bool, *others: Path | None) -> None:
    """Refuse a ``--json`` file that cannot be written, or that would take the place of another output."""
    if path is None:
        return
    if any(other is not None and other.absolute() == path.absolute() for other in others):
        raise InputError(f"--json {path} is written by another option too: give it a name of its own")
    check_new(path, overwrite)


def check_overwrite(overwrite: bool, **outputs: Path | None) -> None:
    """Refuse ``--overwrite`` where none of the options is given that write files: there is nothing to replace.

    Args:
        overwrite: whether it is given.
        outputs: the options that write files, by name.
    """
    if overwrite and not any(outputs.values()):
        raise InputError(f"--overwrite is of use with {' or '.join(f'--{name}' for name in outputs)} alone")


def check_not_input(out: Path, model: str) -> None:
    """Refuse an output folder that is the model itself, which ``--overwrite`` would replace."""
    if Path(model).exists() and out.exists() and out.samefile(model):
        raise InputError(f"-o {out} is the model that is read: choose another folder")


def check_recording(path: Path | None) -> None:
    """Refuse a folder for ``--recording``, with its parents, where a file stands in the way."""
    if path is None:
        return
    place = next(p for p in (path, *path.absolute().parents) if p.exists())
    if not place.is_dir():
        raise InputError(f"--recording {path}: {place} is no folder")


def check_model(name: str, factory: str | None = None, engine: str = "auto") -> None:
    """Refuse what :func:`open_model` cannot open, as far as that is seen without loading anything.

    Raises:
        InputError: there is no such model or engine, or an option is of no use for the model.
        FormatError: the folder holds no model.
    """
    backend_name(engine)
    if is_quantized(Path(name)):
        check_factory(name, factory)
        return
    for flag, void in {"--denoiser": factory is not None, "--engine": engine != "auto"}.items():
        if void:
            raise InputError(f"{flag} is for quantized folders: {name} is none")
    if not is_exported(Path(name)):
        check_model_name(name)


def check_factory(folder: str, factory: str | None) -> None:
    """Refuse a ``--denoiser`` that is no model's name, or for a folder that holds a whole pipeline."""
    if factory is None:
        return
    if Path(folder).is_dir() and not (Path(folder) / "denoiser").is_dir():
        raise InputError(f"--denoiser {factory} is for folders of a bare denoiser: {folder} holds a pipeline")
    check_model_name(factory)


def open_model(name: str, factory: str | None = None, engine: str = "auto") -> "tuple[Model, QuantizedPipeline | None]":
    """The model called ``name``, and the quantized pipeline around it if it is a quantized folder.

    Raises:
        InputError: see :func:`check_model`.
    """
    from tempoquant.api import load
    from tempoquant.exporting import load_exported
    from tempoquant.pipelines import resolve

    check_model(name, factory, engine)
    if is_quantized(Path(name)):
        quantized = load(name, denoiser=filling_denoiser(name, factory), engine=engine)
        return quantized.model, quantized
    return (load_exported(name) if is_exported(Path(name)) else resolve(name)), None


def factory_for(folder: str, reference: str, factory: str | None) -> str | None:
    """The factory to fill a folder by: as given, else the reference's own for a folder of a bare denoiser."""
    own = reference if ".py:" in reference and (Path(folder) / "denoiser").is_dir() else None
    return factory or own


def filling_denoiser(folder: str, factory: str | None) -> "Denoiser | None":
    """The denoiser that ``FILE.py:FACTORY`` returns for a folder of a bare one; None without a factory."""
    from tempoquant.pipelines import BareModel, resolve

    check_factory(folder, factory)
    if factory is None:
        return None
    target = resolve(factory)
    if not isinstance(target, BareModel):
        raise InputError(f"{factory} returns a pipeline, where a bare denoiser is needed")
    return target.denoiser


def schedule(quantized: "QuantizedPipeline | None", steps: int | None, sampler: str | None) -> dict[str, Any]:
    """Steps, sampler and eta to draw with: as given, else those the folder's tables are for."""
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


def console() -> "Console":
    """Standard output; wide enough for every table where it is no terminal, so that nothing is cut in a log."""
    from rich.console import Console

    found = Console(highlight=False)
    return found if found.is_terminal else Console(highlight=False, width=WIDE)
