"""``tempoquant quantize``."""

from pathlib import Path
from typing import Annotated, Any

import typer

from tempoquant.api import quantize
from tempoquant.cli import app
from tempoquant.cli.conditioning import Classes, Guidance, Prompts, conditioning_of, every_condition_of
from tempoquant.cli.options import (
    Json,
    KeepGenerators,
    ModelName,
    Overwrite,
    Plugins,
    Resume,
    Sampler,
    check_folder_place,
    check_json,
    console,
    flag_in_use,
    progress,
    recipe_file,
    told_size,
    write_json,
)
from tempoquant.diagnosis import check_diagnosable, diagnose
from tempoquant.errors import InputError, unknown
from tempoquant.methods import load_plugins, method_recipe
from tempoquant.methods.ptqd import CORRECTIONS
from tempoquant.pipelines import resolve
from tempoquant.planning import coverage_lines
from tempoquant.recipe import read_fragment, with_overrides
from tempoquant.report import write_report
from tempoquant.report.write import check_report
from tempoquant.workplace import check_job_output

REPORT_SAMPLES = 8


@app.command("quantize")
def quantize_command(
    context: typer.Context,
    model: ModelName,
    out: Annotated[Path, typer.Option("-o", "--out", help="folder to write")],
    method: Annotated[str, typer.Option(help="see `tempoquant methods`")] = "tfmq-dm",
    weights: Annotated[int, typer.Option("-w", "--weights", help="weight bits: 2 to 8, 16, or 32 for float")] = 4,
    activations: Annotated[int, typer.Option("-a", "--activations", help="activation bits, likewise")] = 8,
    group_size: Annotated[
        int | None,
        typer.Option(help="input channels that share a weight scale: 16, 32, 64 or 128; without it, all of a channel"),
    ] = None,
    reading: Annotated[str, typer.Option(help="paper or released")] = "paper",
    effort: Annotated[str, typer.Option(help="fast, balanced or paper")] = "fast",
    samples: Annotated[int, typer.Option(help="calibration trajectories")] = 64,
    steps: Annotated[int, typer.Option(help="steps of the schedule to calibrate for")] = 50,
    sampler: Sampler = None,
    eta: Annotated[float, typer.Option(help="DDIM's noise, 0 to 1")] = 0.0,
    correction: Annotated[str | None, typer.Option(help=f"on top of the method: {', '.join(CORRECTIONS)}")] = None,
    step_bits: Annotated[str | None, typer.Option(help="activation bits that steps choose from, as 4,6,8")] = None,
    recipe: Annotated[
        Path | None, typer.Option(help="a recipe file (YAML or JSON) instead of --method and its settings")
    ] = None,
    policy: Annotated[
        Path | None, typer.Option(help="a YAML file of further overrides, as `tempoquant diagnose` writes it")
    ] = None,
    recording: Annotated[Path | None, typer.Option(help="folder of recorded trajectories to make or reuse")] = None,
    prompts: Prompts = None,
    classes: Classes = None,
    guidance: Guidance = None,
    freeze_schedule: Annotated[
        bool, typer.Option("--freeze-schedule", help="store temporal layers as a table of these steps, for no others")
    ] = False,
    keep_generators: KeepGenerators = False,
    freeze_labels: Annotated[
        str | None, typer.Option(help="class labels that the frozen schedule is to know, such as 1,7,207")
    ] = None,
    freeze_prompts: Annotated[
        Path | None, typer.Option(help="prompts that it is to know, where temporal layers follow a pooled prompt")
    ] = None,
    seed: Annotated[int, typer.Option(help="seed of every random draw")] = 0,
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
    if recipe is not None:
        chosen = recipe_file(context, recipe, "reading", "effort", "eta", "correction", "step_bits", "group_size")
    else:
        calibration = {"samples": samples, "steps": steps, "sampler": sampler, "eta": eta}
        chosen = method_recipe(
            method,
            weights=weights,
            activations=activations,
            reading=reading,
            effort=effort,
            calibration=calibration,
            seed=seed,
            **_correction(correction, step_bits),
        )
    if not chosen.uses_effort and flag_in_use(context, "effort"):
        raise InputError(f"--effort {effort} is of no use for {chosen.method}: it rounds weights to the nearest")
    chosen = chosen.with_group_size(group_size) if group_size is not None else chosen
    chosen = chosen.keeping_generators() if keep_generators else chosen
    if policy is not None:
        chosen = with_overrides(chosen, read_fragment(policy))
    void = None if freeze_schedule else flag_in_use(context, "freeze_labels", "freeze_prompts")
    if void is not None:
        raise InputError(f"{void} is of use with --freeze-schedule alone")
    check_json(json_file, overwrite, out, report)
    check_folder_place("--recording", recording)
    if report is not None:
        check_report(report, overwrite)
    check_job_output(out, overwrite)
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
        conditioning=conditioning_of(target, chosen.calibration.samples, prompts, classes, guidance),
        freeze_schedule=freeze_schedule,
        freeze_conditioning=every_condition_of(target, freeze_prompts, freeze_labels, guidance),
        progress=progress(),
    )
    facts = result.facts
    size, seconds = facts["size"], sum(facts["timings"].values())
    console().print(
        f"{out}: {chosen.name}, {told_size(size)}, {seconds:.0f} s\n{_summary(facts)}",
    )
    if report is not None:
        samples = min(REPORT_SAMPLES, chosen.calibration.samples)
        given = conditioning_of(target, samples, prompts, classes, guidance)
        options: dict[str, Any] = {"samples": samples, "conditioning": given, "reference_name": model}
        diagnose(result, target, out=out / "diagnosis", progress=progress(), **options)
        console().print(str(write_report([out], report, overwrite=overwrite)))
    write_json(json_file, {"out": str(out), "recipe": chosen.model_dump(mode="json"), **facts})


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


def _summary(facts: dict) -> str:
    layers = ", ".join(f"{count} {name}" for name, count in facts["layers"].items() if count)
    products = f"{len(facts['attention_products'])} attention products (q, k, v, softmax)"
    missed = f"; not reached: {', '.join(facts['unreached_products'])}" if facts["unreached_products"] else ""
    stages = ", ".join(f"{name} {seconds:.1f} s" for name, seconds in facts["timings"].items())
    return "\n".join([f"layers that see: {layers}; {products}{missed}", *coverage_lines(facts["coverage"]), stages])
