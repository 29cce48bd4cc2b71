"""Running experiments: methods x bits x seeds on one model, and the tables of what was measured."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tempoquant.bench.bench import Outcome, run_bench
    from tempoquant.bench.board import RichBoard
    from tempoquant.bench.change import only, settings, with_entry
    from tempoquant.bench.experiment import Experiment, built_in, load_experiment, parse_bits
    from tempoquant.bench.plan import MOST_AT_ONCE, Run, plan_runs
    from tempoquant.bench.records import check_bench_folder
    from tempoquant.bench.references import conditioning_of
else:
    from tempoquant.imports import lazy_face

    __getattr__, __dir__ = lazy_face(__name__, __file__)

__all__ = [
    "MOST_AT_ONCE",
    "Experiment",
    "Outcome",
    "RichBoard",
    "Run",
    "built_in",
    "check_bench_folder",
    "conditioning_of",
    "load_experiment",
    "only",
    "parse_bits",
    "plan_runs",
    "run_bench",
    "settings",
    "with_entry",
]
