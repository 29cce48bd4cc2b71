"""``tempoquant train``."""

from pathlib import Path
from typing import Annotated, Any

import typer

from tempoquant.api import train
from tempoquant.cli import app
from tempoquant.cli.conditioning import Classes, Guidance, Prompts, conditioning_of
from tempoquant.cli.options import (
    Json,
    KeepGenerators,
    ModelName,
    Overwrite,
    Resume,
    Sampler,
    check_json,
    console,
    progress,
    recipe_file,
    told_size,
    write_json,
)
from tempoquant.methods import method_recipe
from tempoquant.pipelines import resolve
from tempoquant.planning import coverage_lines
from tempoquant.progress import Silent
from tempoquant.recipe import Recipe
from tempoquant.training import Processes, Rhythm
from tempoquant.workplace import check_job_output

DATA = "a folder of images, a .npz, idx files or hf:NAME; without it, the model's own trajectories"


@app.command("train")
def train_command(
    context: typer.Context,
    model: ModelName,
    out: Annotated[Path, typer.Option("-o", "--out", help="folder to write")],
    method: Annotated[str, typer.Option(help="tdq, lsq, ...: those that train, see `tempoquant methods`")] = "tdq",
    weights: Annotated[int, typer.Option("-w", "--weights", help="weight bits: 2 to 8, 16, or 32 for float")] = 4,
    activations: Annotated[int, typer.Option("-a", "--activations", help="activation bits, likewise")] = 4,
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
    recipe: Annotated[
        Path | None, typer.Option(help="a recipe file (YAML or JSON) instead of --method and its settings")
    ] = None,
    prompts: Prompts = None,
    classes: Classes = None,
    guidance: Guidance = None,
    seed: Annotated[int, typer.Option(help="seed of every random draw")] = 0,
    save_every: Annotated[int, typer.Option(help="steps between checkpoints")] = 200,
    samples_every: Annotated[int, typer.Option(help="steps between pictures of samples; 0 for none")] = 0,
    resume: Resume = False,
    overwrite: Overwrite = False,
    json_file: Json = None,
) -> None:
    """Train a model at few bits, and fold it into a quantized folder.

    Example: tempoquant train fashion32 --method tdq -w 4 -a 4 --data images/ -o out
    """
    if recipe is not None:
        chosen = recipe_file(
            context, recipe, "train_steps", "batch", "accumulate", "lr", "warm_up", "ema", "loss", "bf16", "lora"
        )
    else:
        training: dict[str, Any] = {
            "steps": train_steps,
            "batch": batch,
            "accumulate": accumulate,
            "lr": lr,
            "warm_up": warm_up,
            "ema": ema,
            "loss": loss,
            "lora": lora,
            "autocast": "bfloat16" if bf16 else None,
        }
        calibration = {"samples": samples, "steps": steps, "sampler": sampler}
        chosen = _recipe(method, weights, activations, training, calibration, seed)
    chosen = chosen.keeping_generators() if keep_generators else chosen
    writes = Processes().writes
    if writes:
        check_job_output(out, overwrite)
        check_json(json_file, overwrite, out)
    target = resolve(model)
    result = train(
        target,
        chosen,
        data=data,
        out=out,
        resume=resume,
        overwrite=overwrite,
        conditioning=conditioning_of(target, chosen.calibration.samples, prompts, classes, guidance),
        rhythm=Rhythm(save=save_every, samples=samples_every),
        progress=progress() if writes else Silent(),
    )
    if not writes:
        return
    size, seconds = result.facts["size"], result.facts["timings"]["training"]
    console().print(
        f"{out}: {chosen.name}, {told_size(size)}, trained in {seconds:.0f} s; log and samples in {out / 'training'}"
    )
    console().print("\n".join(coverage_lines(result.facts["coverage"])))
    write_json(json_file, {"out": str(out), "recipe": chosen.model_dump(mode="json"), **result.facts})


def _recipe(
    method: str, weights: int, activations: int, training: dict[str, Any], calibration: dict[str, Any], seed: int
) -> Recipe:
    """The method's recipe; one that does not train is left as it is, to be refused."""
    plain = method_recipe(method, weights=weights, activations=activations, calibration=calibration, seed=seed)
    if plain.training is None:
        return plain
    entries = plain.model_dump(mode="json")
    return Recipe.parse({**entries, "training": {**entries["training"], **training}})
