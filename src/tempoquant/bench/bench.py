"""Running an experiment: everything shared once, every run that is not done yet, then the tables."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from filelock import FileLock, Timeout

from tempoquant.bench.board import Board, SilentBoard
from tempoquant.bench.experiment import Experiment
from tempoquant.bench.plan import MOST_AT_ONCE, Run, plan_runs
from tempoquant.bench.pool import work
from tempoquant.bench.records import RESULTS, Record, Records, check_bench_folder
from tempoquant.bench.runner import Setup, kept_folder, runner_of
from tempoquant.bench.shared import Shared
from tempoquant.bench.tables import write_tables
from tempoquant.errors import InputError
from tempoquant.methods import load_plugins
from tempoquant.pipelines import Model

ESTIMATES = "paper-schedule.jsonl"


@dataclass
class Outcome:
    """The result of a bench.

    Attributes:
        model: the full-precision model.
        records: of all runs that are done, in the experiment's order.
        tables: the files that show them.
        failures: by run, the line it failed with.
        skipped: runs that an earlier bench had done.
        models: folders of the quantized models, where they are kept.
    """

    model: Model
    records: list[Record]
    tables: list[Path]
    failures: dict[str, str] = field(default_factory=dict)
    skipped: int = 0
    models: list[Path] = field(default_factory=list)


def run_bench(
    experiment: Experiment,
    out: Path,
    *,
    model: str | None = None,
    jobs: int = 1,
    threads: int | None = None,
    plugins: Sequence[Path] = (),
    keep: bool = False,
    check: Callable[[Model], None] | None = None,
    board: Board | None = None,
) -> Outcome:
    """Do the runs of an experiment that have no record yet, and write its tables.

    Args:
        experiment: to run.
        out: made if there is none; holds ``results.jsonl``, the tables, ``samples/``, ``work/`` and, if
            asked for, ``paper-schedule.jsonl``.
        model: as on the command line, in the place of the experiment's.
        jobs: worker processes.
        threads: of each; by default this process's are divided among them.
        plugins: files of a user's own methods.
        keep: leave the quantized models in ``models/``; runs whose model is not there are done again.
        check: called with the full-precision model before any run; what it raises ends the bench.
        board: where progress is shown.

    Raises:
        InputError: something in the experiment is not valid, or not for this model, or another bench is writing to
            ``out``; said before any long work.
    """
    named = experiment.model if model is None else model
    if named is None:
        raise InputError(f"{experiment.name} names no model: give --model")
    for name, count in {"jobs": jobs, "threads": threads}.items():
        if count is not None and not 1 <= count <= MOST_AT_ONCE:
            raise InputError(f"{name} = {count} is out of range: 1 to {MOST_AT_ONCE}")
    load_plugins(plugins)
    runs = plan_runs(experiment)
    threads = threads or max(1, torch.get_num_threads() // jobs)
    setup = Setup(experiment.model_dump_json(), named, str(out), tuple(map(str, plugins)), threads, keep)
    with _threads(threads):
        # Files may have changed since an earlier bench of this process.
        runner_of.cache_clear()
        runner = runner_of(setup)
        if check is not None:
            check(runner.model)
        shared = Shared(experiment, runner.model, runner.metrics, runs, out / "work", board or SilentBoard())
        with _alone(_prepared(out)):
            return _missing_runs(experiment, runs, shared, setup, jobs)


def _missing_runs(experiment: Experiment, runs: list[Run], shared: Shared, setup: Setup, jobs: int) -> Outcome:
    """Do the runs that have no record, and write the tables of all."""
    out = Path(setup.out)
    results = Records(out / RESULTS)
    todo = [run for run in runs if _lacks(run, shared, results, setup)]
    failures = _do(todo, len(runs) - len(todo), shared, results, setup, jobs)
    done = [run for run in runs if shared.identities[run.name] in results.by_id]
    estimates = shared.estimates(done, Records(out / ESTIMATES)) if experiment.paper_schedule else {}
    records = [
        results.by_id[shared.identities[run.name]] | {"label": run.label, "paper_schedule": estimates.get(run.name)}
        for run in done
    ]
    kept = [folder for run in done if (folder := _kept(run, shared, setup)) and folder.is_dir()]
    tables = write_tables(experiment, shared.model.name, records, out, failures)
    return Outcome(shared.model, records, tables, failures, len(runs) - len(todo), kept)


def _kept(run: Run, shared: Shared, setup: Setup) -> Path | None:
    return kept_folder(setup, run.name, shared.identities[run.name])


def _lacks(run: Run, shared: Shared, results: Records, setup: Setup) -> bool:
    """Whether a run has no record, or should have left a model and did not."""
    record, kept = results.by_id.get(shared.identities[run.name]), _kept(run, shared, setup)
    return record is None or (kept is not None and record["size"] is not None and not kept.is_dir())


def _do(todo: list[Run], skipped: int, shared: Shared, results: Records, setup: Setup, jobs: int) -> dict[str, str]:
    """Do these runs; the line that each failed one ended with."""
    board = shared.board
    board.planned(len(todo), skipped)
    failures: dict[str, str] = {}
    for task, result in work(setup, shared.chains(todo) if todo else [], jobs, board):
        if isinstance(result, dict):
            results.append(result)
            board.ended(task.run.name, _quality(result["paired"]))
        else:
            failures[task.run.name] = str(result)
            board.ended(task.run.name, f"failed: {result}")
    return failures


def _quality(paired: Mapping[str, Any]) -> str:
    """A run's quality in a few words."""
    if paired["psnr"] is None:
        return f"relative error {100 * paired['relative_error']['mean']:.2f} %"
    psnr = paired["psnr"]["mean"]
    return "equal images" if psnr is None else f"PSNR {psnr:.2f} dB"


def _prepared(out: Path) -> Path:
    """Create the bench's folder, or continue in an earlier bench's."""
    check_bench_folder(out)
    out.mkdir(parents=True, exist_ok=True)
    (out / RESULTS).touch()
    return out


def _alone(out: Path) -> AbstractContextManager[object]:
    """Refuse a folder that another bench is writing to; a killed one's lock goes with its process."""
    try:
        return FileLock(out / ".lock", blocking=False).acquire()
    except Timeout:
        raise InputError(f"another bench is writing to {out}: wait for it, or choose another folder") from None


@contextmanager
def _threads(count: int) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)
