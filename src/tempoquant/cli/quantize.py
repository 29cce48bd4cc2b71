"""``tempoquant quantize``."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from tempoquant.cli import app
from tempoquant.cli.conditioning import (
    Classes,
    ConditioningFlags,
    Guidance,
    Prompts,
    conditioning_of,
    every_condition_of,
)
from tempoquant.cli.options import (
    ActivationBits,
    DrawSeed,
    Json,
    KeepGenerators,
    ModelName,
    OutFolder,
    Overwrite,
    Plugins,
    RecipeFile,
    Recording,
    Resume,
    Sampler,
    WeightBits,
    check_json,
    check_recording,
    console,
    progress,
    recipe_file,
    refuse,
    told_size,
    write_json,
)
from tempoquant.errors import InputError, unknown
from tempoquant.methods import load_plugins, method_recipe
from tempoquant.methods.ptqd import CORRECTIONS
from tempoquant.outputs import check_report
from tempoquant.pipelines import check_model_name
from tempoquant.recipe import Recipe, check_training, read_fragment, with_overrides
from tempoquant.sampling import check_sampler
from tempoquant.workplace import check_job_output

if TYPE_CHECKING:
    from tempoquant.pipelines import Model
    from tempoquant.quantized import QuantizedPipeline

REPORT_SAMPLES = 8


@app.command("quantize")
def quantize_command(
    context: typer.Context,
    model: ModelName,
    out: OutFolder,
    method: Annotated[str, typer.Option(help="see `tempoquant methods`")] = "tfmq-dm",
    weights: WeightBits = 4,
    activations: ActivationBits = 8,
    group_size: Annotated[
        int | None,
        typer.Option(help="input channels that share a weight scale: 16, 32, 64 or 128; without it, all of a channel"),
    ] = None,
    granularity: Annotated[
        str, typer.Option(help="what shares an activation scale: per-tensor; per-token in Linear layers")
    ] = "per-tensor",
    dynamic: Annotated[
        bool, typer.Option("--dynamic", help="activation scales from the input, not calibrated")
    ] = False,
    reading: Annotated[str, typer.Option(help="paper or released")] = "paper",
    effort: Annotated[str, typer.Option(help="fast, balanced or paper")] = "fast",
    samples: Annotated[int, typer.Option(help="calibration trajectories")] = 64,
    steps: Annotated[int, typer.Option(help="steps of the schedule to calibrate for")] = 50,
    sampler: Sampler = None,
    eta: Annotated[float, typer.Option(help="DDIM's noise, 0 to 1")] = 0.0,
    correction: Annotated[str | None, typer.Option(help=f"on top of the method: {', '.join(CORRECTIONS)}")] = None,
    step_bits: Annotated[str | None, typer.Option(help="activation bits that steps choose from, as 4,6,8")] = None,
    recipe: RecipeFile = None,
    policy: Annotated[
        Path | None, typer.Option(help="a YAML file of further overrides, as `tempoquant diagnose` writes it")
    ] = None,
    recording: Recording = None,
    prompts: Prompts = None,
    classes: Classes = None,
    guidance: Guidance = None,
    freeze_schedule: Annotated[
        bool, typer.Option("--freeze-schedule", help="freeze the schedule: temporal layers become a table of its steps")
    ] = False,
    keep_generators: KeepGenerators = False,
    freeze_labels: Annotated[
        str | None, typer.Option(help="class labels that the frozen schedule is to know, such as 1,7,207")
    ] = None,
    freeze_prompts: Annotated[
        Path | None, typer.Option(help="prompts that it is to know, where temporal layers follow a pooled prompt")
    ] = None,
    seed: DrawSeed = 0,
    plugin: Plugins = None,
    report: Annotated[
        Path | None, typer.Option(help="also diagnose the result, into OUT/diagnosis, and show it in this file")
    ] = None,
    resume: Resume = False,
    overwrite: Overwrite = False,
    json_file: Json = None,
) -> None:
    """Quantize a model into a folder.

    Example: tempoquant quantize fashion32 --method tfmq-dm -w 4 -a 8 -o out
    """
    load_plugins(plugin or ())
    chosen = _recipe(context, recipe, policy)
    if not freeze_schedule:
        refuse(context, ("freeze_labels", "freeze_prompts"), "is of use with --freeze-schedule alone")
    check_json(json_file, overwrite, out, report)
    check_recording(recording)
    if report is not None:
        check_report(report, overwrite)
    check_job_output(out, overwrite)
    check_model_name(model)
    flags = ConditioningFlags(prompts, classes, guidance)
    frozen = ConditioningFlags(freeze_prompts, freeze_labels, guidance)
    from tempoquant.api import quantize
    from tempoquant.diagnosis import check_diagnosable
    from tempoquant.pipelines import resolve

    target = resolve(model)
    if report is not None:
        check_diagnosable(target)
    result = quantize(
        target,
        chosen,
        out=out,
        recording=recording,
        resume=resume,
        overwrite=overwrite,
        conditioning=conditioning_of(target, chosen.calibration.samples, flags),
        freeze_schedule=freeze_schedule,
        freeze_conditioning=every_condition_of(target, frozen),
        progress=progress(),
    )
    size, seconds = result.facts["size"], sum(result.facts["timings"].values())
    console().print(f"{out}: {chosen.name}, {told_size(size)}, {seconds:.0f} s\n{_summary(result.facts)}")
    if report is not None:
        _report(result, target, flags, model, out, report, overwrite)
    write_json(json_file, {"out": str(out), "recipe": chosen.model_dump(mode="json"), **result.facts})


def _recipe(context: typer.Context, file: Path | None, policy: Path | None) -> Recipe:
    """The recipe of the file, or of the method and its settings, with the overrides of ``policy``.

    Raises:
        InputError: an option is not valid, or void beside another.
    """
    options = context.params
    chosen = _method_recipe(options) if file is None else recipe_file(context, file, *IN_A_FILE)
    check_training(chosen, trains=False)
    if not chosen.uses_effort:
        why = f"{options['effort']} is of no use for {chosen.method}: it rounds weights to the nearest"
        refuse(context, ("effort",), why)
    if chosen.calibration.sampler is not None:
        check_sampler(chosen.calibration.sampler)
    chosen = _with_scales(chosen, options)
    chosen = chosen.keeping_generators() if options["keep_generators"] else chosen
    return chosen if policy is None else with_overrides(chosen, read_fragment(policy))


IN_A_FILE = ("reading", "effort", "eta", "correction", "step_bits", "group_size", "granularity", "dynamic")
"""What a recipe file decides, beside what it decides in every command."""


def _with_scales(recipe: Recipe, options: dict[str, Any]) -> Recipe:
    """``recipe`` with the scales that the command's options ask for, instead of the method's calibrated ones.

    Raises:
        InputError: the method's scales learn, which these cannot.
    """
    if options["group_size"] is not None:
        recipe = recipe.with_entries("weights", group_size=options["group_size"])
    granularity, dynamic = options["granularity"], options["dynamic"]
    if granularity == "per-tensor" and not dynamic:
        return recipe
    schedule = {"steps": "constant"} if dynamic else {}
    return recipe.with_entries("activations", granularity=granularity, dynamic=dynamic, range="minmax", **schedule)


def _method_recipe(options: dict[str, Any]) -> Recipe:
    """The recipe of ``--method`` and of the other options of the command, by name."""
    return method_recipe(
        options["method"],
        calibration={name: options[name] for name in ("samples", "steps", "sampler", "eta")},
        **{name: options[name] for name in ("weights", "activations", "reading", "effort", "seed")},
        **_correction(options["correction"], options["step_bits"]),
    )


def _correction(name: str | None, step_bits: str | None) -> dict[str, Any]:
    """The recipe entries of both options; none if neither is given."""
    if name is not None and name not in CORRECTIONS:
        raise unknown("correction", name, CORRECTIONS)
    entries: dict[str, Any] = {} if name is None else dict(CORRECTIONS[name])
    if step_bits is not None:
        try:
            entries["step_bits"] = sorted({int(bits) for bits in step_bits.split(",")})
        except ValueError:
            raise InputError(f"--step-bits {step_bits!r} is no list of widths such as 4,6,8") from None
    return {"correction": entries} if entries else {}


def _report(
    result: "QuantizedPipeline",
    target: "Model",
    flags: ConditioningFlags,
    model: str,
    out: Path,
    report: Path,
    overwrite: bool,
) -> None:
    """Diagnose the result into ``out/diagnosis``, and write the page that shows it."""
    from tempoquant.diagnosis import diagnose
    from tempoquant.report import write_report

    samples = min(REPORT_SAMPLES, result.recipe.calibration.samples)
    conditioning = conditioning_of(target, samples, flags)
    options: dict[str, Any] = {"samples": samples, "conditioning": conditioning, "reference_name": model}
    diagnose(result, target, out=out / "diagnosis", progress=progress(), **options)
    console().print(str(write_report([out], report, overwrite=overwrite)))


def _summary(facts: dict) -> str:
    from tempoquant.planning import coverage_lines

    layers = ", ".join(f"{count} {name}" for name, count in facts["layers"].items() if count)
    products = f"{len(facts['attention_products'])} attention products (q, k, v, softmax)"
    missed = f"; not reached: {', '.join(facts['unreached_products'])}" if facts["unreached_products"] else ""
    stages = ", ".join(f"{name} {seconds:.1f} s" for name, seconds in facts["timings"].items())
    return "\n".join([f"layers that see: {layers}; {products}{missed}", *coverage_lines(facts["coverage"]), stages])
