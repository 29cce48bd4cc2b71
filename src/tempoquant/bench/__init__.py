"""Running experiments: methods x bits x seeds on one model, and the tables of what was measured."""

from tempoquant.bench.bench import Outcome, run_bench
from tempoquant.bench.experiment import Experiment, built_in, load_experiment, parse_bits
from tempoquant.bench.plan import Run, plan_runs

__all__ = ["Experiment", "Outcome", "Run", "built_in", "load_experiment", "parse_bits", "plan_runs", "run_bench"]
