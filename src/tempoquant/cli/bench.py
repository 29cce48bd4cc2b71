"""``tempoquant bench``."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from tempoquant.bench import (
    MOST_AT_ONCE,
    Experiment,
    check_bench_folder,
    load_experiment,
    only,
    plan_runs,
    settings,
    with_entry,
)
from tempoquant.cli import app
from tempoquant.cli.conditioning import Classes, ConditioningFlags, Guidance, Prompts
from tempoquant.cli.options import (
    Json,
    Overwrite,
    Plugins,
    check_json,
    check_overwrite,
    console,
    progress,
    write_json,
)
from tempoquant.errors import InputError
from tempoquant.methods import load_plugins
from tempoquant.outputs import check_report
from tempoquant.pipelines import check_model_name

if TYPE_CHECKING:
    from tempoquant.bench import Outcome

REPORT_SAMPLES = 8
AT_ONCE: dict[str, Any] = {"min": 1, "max": MOST_AT_ONCE}


@app.command("bench")
def bench_command(
    experiment: Annotated[
        str,
        typer.Argument(help="a YAML file, a built-in experiment such as fashion32, or FILE.py:FACTORY of a model"),
    ],
    model: Annotated[str | None, typer.Option(help="what to quantize in the place of the experiment's model")] = None,
    out: Annotated[Path | None, typer.Option("-o", "--out", help="folder of results; bench/NAME if not given")] = None,
    jobs: Annotated[int, typer.Option(**AT_ONCE, help="runs at a time, each in a process of its own")] = 1,
    threads: Annotated[
        int | None, typer.Option(**AT_ONCE, help="threads of each process; shared among them if not given")
    ] = None,
    seeds: Annotated[str | None, typer.Option(help="seeds in the place of the experiment's, such as 0,1,2")] = None,
    methods: Annotated[str | None, typer.Option(help="of its runs only those of these methods: rtn,tfmq-dm")] = None,
    bits: Annotated[str | None, typer.Option(help="of its runs only those at these bits: W4A8,W8A8")] = None,
    changes: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="another entry, such as steps=20 or recipe.effort=paper"),
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
    check_overwrite(overwrite, json=json_file, report=report)
    check_json(json_file, overwrite, out, report)
    if report is not None:
        check_report(report, overwrite)
    load_plugins(plugin or ())
    entries = settings(changes or ())
    for option, (path, value) in _flags(model, seeds, ConditioningFlags(prompts, classes, guidance)).items():
        entries = with_entry(entries, path, value, option)
    found = only(load_experiment(experiment, **entries), _names(methods), _names(bits))
    folder = Path("bench") / found.name if out is None else out
    _check(found, folder)
    from tempoquant.bench import RichBoard, run_bench
    from tempoquant.diagnosis import check_diagnosable

    check = None if report is None else check_diagnosable
    options: dict[str, Any] = {"jobs": jobs, "threads": threads, "plugins": plugin or (), "keep": report is not None}
    with RichBoard() as board:
        outcome = run_bench(found, folder, board=board, check=check, **options)
    for table in outcome.tables[:1]:
        console().print(table.read_text(), markup=False, soft_wrap=True)
    console().print(f"{folder}: {len(outcome.records)} runs ({outcome.skipped} done before)")
    if report is not None and outcome.models:
        _report(outcome, found, report, overwrite)
    write_json(json_file, outcome.records)
    for name, line in outcome.failures.items():
        typer.echo(f"tempoquant: {name}: {line}", err=True)
    if outcome.failures:
        raise typer.Exit(1)


def _flags(model: str | None, seeds: str | None, flags: ConditioningFlags) -> dict[str, tuple[str, Any]]:
    """The entries, each a path and a value, that options set, by option; of those that are given."""
    values = {
        "--model": ("model", model),
        "--seeds": ("seeds", None if seeds is None else _numbers(seeds)),
        "--prompts": ("conditioning.prompts", None if flags.prompts is None else str(flags.prompts)),
        "--classes": ("conditioning.classes", flags.lists.get("class_labels")),
        "--guidance": ("conditioning.guidance", flags.guidance),
    }
    return {option: entry for option, entry in values.items() if entry[1] is not None}


def _check(experiment: Experiment, folder: Path) -> None:
    """Refuse an experiment that cannot be run, as far as that is seen without loading its model.

    Raises:
        InputError: a run is not valid, there is no such model, or the folder holds something else.
    """
    plan_runs(experiment)
    if experiment.model is None:
        raise InputError(f"{experiment.name} names no model: give --model")
    check_model_name(experiment.model)
    check_bench_folder(folder)


def _report(outcome: "Outcome", experiment: Experiment, report: Path, overwrite: bool) -> None:
    """Diagnose those models of a bench that are not, on what it evaluates them on, and write the page about all."""
    from tempoquant.bench import conditioning_of
    from tempoquant.diagnosis import diagnose
    from tempoquant.report import write_report

    samples = min(REPORT_SAMPLES, experiment.evaluation.images)
    conditioning = conditioning_of(experiment, outcome.model, samples, evaluated=True)
    options: dict[str, Any] = {"samples": samples, "conditioning": conditioning, "reference_name": experiment.model}
    for folder in outcome.models:
        if not (folder / "diagnosis").exists():
            diagnose(folder, outcome.model, out=folder / "diagnosis", progress=progress(), **options)
    console().print(str(write_report(outcome.models, report, overwrite=overwrite)))


def _numbers(text: str) -> list[int]:
    try:
        return [int(part) for part in text.split(",")]
    except ValueError:
        raise InputError(f"--seeds {text!r}: whole numbers, separated by commas, are needed") from None


def _names(text: str | None) -> list[str] | None:
    return None if text is None else [part.strip() for part in text.split(",")]
