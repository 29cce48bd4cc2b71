"""``tempoquant train``."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from tempoquant.cli import app
from tempoquant.cli.conditioning import Classes, ConditioningFlags, Guidance, Prompts, conditioning_of
from tempoquant.cli.options import (
    ActivationBits,
    DrawSeed,
    Json,
    KeepGenerators,
    ModelName,
    OutFolder,
    Overwrite,
    RecipeFile,
    Resume,
    Sampler,
    WeightBits,
    check_json,
    console,
    progress,
    recipe_file,
    told_size,
    write_json,
)
from tempoquant.methods import method_recipe
from tempoquant.pipelines import check_model_name
from tempoquant.progress import Silent
from tempoquant.recipe import Recipe, check_storable, check_training
from tempoquant.sampling import check_sampler
from tempoquant.training import Rhythm, process_rank
from tempoquant.workplace import check_job_output

if TYPE_CHECKING:
    from tempoquant.quantized import QuantizedPipeline

DATA = "a folder of images, a .npz, idx files or hf:NAME; without it, the model's own trajectories"
ENTRIES = {
    "train_steps": "steps",
    "batch": "batch",
    "accumulate": "accumulate",
    "lr": "lr",
    "warm_up": "warm_up",
    "ema": "ema",
    "loss": "loss",
    "lora": "lora",
}
"""Entries of a recipe's ``training`` by the options that set them; ``--bf16`` sets ``autocast``."""


@app.command("train")
def train_command(
    context: typer.Context,
    model: ModelName,
    out: OutFolder,
    method: Annotated[str, typer.Option(help="tdq, lsq, ...: those that train, see `tempoquant methods`")] = "tdq",
    weights: WeightBits = 4,
    activations: ActivationBits = 4,
    data: Annotated[str | None, typer.Option(help=DATA)] = None,
    train_steps: Annotated[int, typer.Option(help="steps of the optimizer")] = 1000,
    batch: Annotated[int, typer.Option(help="samples a step, of all processes together")] = 64,
    accumulate: Annotated[int, typer.Option(help="parts that a batch is computed in, to bound memory")] = 1,
    lr: Annotated[float, typer.Option(help="learning rate of the weights")] = 2e-4,
    warm_up: Annotated[int, typer.Option(help="steps until the learning rate is reached")] = 100,
    ema: Annotated[float, typer.Option(help="decay of the averages that are kept")] = 0.999,
    loss: Annotated[str, typer.Option(help="l2 or l1")] = "l2",
    bf16: Annotated[bool, typer.Option("--bf16", help="compute layers in bfloat16")] = False,
    lora: Annotated[int | None, typer.Option(help="train adapters of this rank instead of all weights")] = None,
    keep_generators: KeepGenerators = False,
    samples: Annotated[int, typer.Option(help="recorded trajectories")] = 64,
    steps: Annotated[int, typer.Option(help="steps of the schedule that the tables are for")] = 50,
    sampler: Sampler = None,
    recipe: RecipeFile = None,
    prompts: Prompts = None,
    classes: Classes = None,
    guidance: Guidance = None,
    seed: DrawSeed = 0,
    save_every: Annotated[int, typer.Option(help="steps between checkpoints")] = 200,
    samples_every: Annotated[int, typer.Option(help="steps between pictures of samples; 0 for none")] = 0,
    resume: Resume = False,
    overwrite: Overwrite = False,
    json_file: Json = None,
) -> None:
    """Train a model at few bits, and fold it into a quantized folder.

    Example: tempoquant train fashion32 --method tdq -w 4 -a 4 --data images/ -o out
    """
    chosen = _recipe(context, recipe)
    rhythm = Rhythm(save=save_every, samples=samples_every)
    writes = process_rank() == 0
    if writes:
        check_storable(chosen)
        check_job_output(out, overwrite)
        check_json(json_file, overwrite, out)
    check_model_name(model)
    flags = ConditioningFlags(prompts, classes, guidance)
    from tempoquant.api import train
    from tempoquant.pipelines import resolve

    target = resolve(model)
    result = train(
        target,
        chosen,
        data=data,
        out=out,
        resume=resume,
        overwrite=overwrite,
        conditioning=conditioning_of(target, chosen.calibration.samples, flags),
        rhythm=rhythm,
        progress=progress() if writes else Silent(),
    )
    if writes:
        _show(result, out)
        write_json(json_file, {"out": str(out), "recipe": chosen.model_dump(mode="json"), **result.facts})


def _recipe(context: typer.Context, file: Path | None) -> Recipe:
    """The recipe of the file, or of the method and its settings.

    Raises:
        InputError: an option is not valid, or void beside another, or the recipe is of no training.
    """
    options = context.params
    chosen = _method_recipe(options) if file is None else recipe_file(context, file, *ENTRIES, "bf16")
    check_training(chosen, trains=True)
    if chosen.calibration.sampler is not None:
        check_sampler(chosen.calibration.sampler)
    return chosen.keeping_generators() if options["keep_generators"] else chosen


def _method_recipe(options: dict[str, Any]) -> Recipe:
    """The recipe of ``--method`` and of the other options of the command, by name."""
    plain = method_recipe(
        options["method"],
        calibration={name: options[name] for name in ("samples", "steps", "sampler")},
        **{name: options[name] for name in ("weights", "activations", "seed")},
    )
    check_training(plain, trains=True)
    training = {entry: options[option] for option, entry in ENTRIES.items()}
    training["autocast"] = "bfloat16" if options["bf16"] else None
    entries = plain.model_dump(mode="json")
    return Recipe.parse({**entries, "training": {**entries["training"], **training}})


def _show(result: "QuantizedPipeline", out: Path) -> None:
    """Say what was trained, and how much of it is quantized."""
    from tempoquant.planning import coverage_lines

    size, seconds = told_size(result.facts["size"]), result.facts["timings"]["training"]
    where = f"log and samples in {out / 'training'}"
    console().print(f"{out}: {result.recipe.name}, {size}, trained in {seconds:.0f} s; {where}")
    console().print("\n".join(coverage_lines(result.facts["coverage"])))
