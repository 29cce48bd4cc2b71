"""``tempoquant bench``."""

from pathlib import Path
from typing import Annotated, Any

import typer

from tempoquant.bench import load_experiment, run_bench
from tempoquant.bench.board import RichBoard
from tempoquant.bench.change import only, settings
from tempoquant.bench.experiment import Experiment, merged
from tempoquant.bench.truth import conditioning_of
from tempoquant.cli import app
from tempoquant.cli.conditioning import Classes, Guidance, Prompts, read_classes
from tempoquant.cli.options import Json, Overwrite, Plugins, check_json, console, progress, write_json
from tempoquant.diagnosis import check_diagnosable, diagnose
from tempoquant.errors import InputError
from tempoquant.job import full_precision
from tempoquant.report import write_report
from tempoquant.report.write import check_report

REPORT_SAMPLES = 8


@app.command("bench")
def bench_command(
    experiment: Annotated[str, typer.Argument(help="a YAML file, or a built-in experiment such as fashion32")],
    model: Annotated[str | None, typer.Option(help="what to quantize in the place of the experiment's model")] = None,
    out: Annotated[Path | None, typer.Option("-o", "--out", help="folder of results; bench/NAME if not given")] = None,
    jobs: Annotated[int, typer.Option(help="runs at a time, each in a process of its own")] = 1,
    threads: Annotated[int | None, typer.Option(help="threads of each process; shared among them if not given")] = None,
    seeds: Annotated[str | None, typer.Option(help="seeds in the place of the experiment's, such as 0,1,2")] = None,
    methods: Annotated[str | None, typer.Option(help="of its runs only those of these methods: rtn,tfmq-dm")] = None,
    bits: Annotated[str | None, typer.Option(help="of its runs only those at these bits: W4A8,W8A8")] = None,
    changes: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="another entry, such as steps=20 or evaluation.images=4"),
    ] = None,
    prompts: Prompts = None,
    classes: Classes = None,
    guidance: Guidance = None,
    plugin: Plugins = None,
    report: Annotated[
        Path | None, typer.Option(help="also keep and diagnose the models, in OUT/models, and show them in this file")
    ] = None,
    overwrite: Overwrite = False,
    json_file: Json = None,
) -> None:
    """Compare methods at many bits and seeds on one model; the same command again goes on where it was stopped.

    Example: tempoquant bench fashion32 -o out/bench
    """
    check_json(json_file, overwrite, out, report)
    if report is not None:
        check_report(report, overwrite)
    given = {
        "prompts": None if prompts is None else str(prompts),
        "classes": None if classes is None else read_classes(classes),
        "guidance": guidance,
    }
    conditioning = {name: value for name, value in given.items() if value is not None}
    flags = {"conditioning": conditioning, "seeds": None if seeds is None else _numbers(seeds)}
    entries = merged(settings(changes or ()), {name: value for name, value in flags.items() if value})
    found = only(load_experiment(experiment, **entries), _names(methods), _names(bits))
    named = model or found.model
    if report is not None and named is not None:
        check_diagnosable(full_precision(named))
    folder = Path("bench") / found.name if out is None else out
    options: dict[str, Any] = {"jobs": jobs, "threads": threads, "plugins": plugin or (), "keep": report is not None}
    with RichBoard() as board:
        outcome = run_bench(found, folder, model=model, board=board, **options)
    for table in outcome.tables[:1]:
        console().print(table.read_text(), markup=False, soft_wrap=True)
    console().print(f"{folder}: {len(outcome.records)} runs ({outcome.skipped} done before)")
    if report is not None and outcome.models:
        _diagnose(outcome.models, found, model or found.model or "")
        console().print(str(write_report(outcome.models, report, overwrite=overwrite)))
    write_json(json_file, outcome.records)
    if outcome.failures:
        for name, line in outcome.failures.items():
            typer.echo(f"tempoquant: {name}: {line}", err=True)
        raise typer.Exit(1)


def _diagnose(models: list[Path], experiment: Experiment, reference: str) -> None:
    """Diagnose those of ``models`` that are not, on what the experiment evaluates them on."""
    target = full_precision(reference)
    samples = min(REPORT_SAMPLES, experiment.evaluation.images)
    given = conditioning_of(experiment, target, samples, evaluated=True)
    for folder in models:
        if not (folder / "diagnosis").exists():
            options: dict[str, Any] = {"samples": samples, "conditioning": given, "reference_name": reference}
            diagnose(folder, target, out=folder / "diagnosis", progress=progress(), **options)


def _numbers(text: str) -> list[int]:
    try:
        return [int(part) for part in text.split(",")]
    except ValueError:
        raise InputError(f"--seeds {text!r}: whole numbers, separated by commas, are needed") from None


def _names(text: str | None) -> list[str] | None:
    return None if text is None else [part.strip() for part in text.split(",")]
