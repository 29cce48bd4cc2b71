"""Methods that train, beside those that do not, in one bench."""

import torch

from tempoquant.bench import Experiment, load_experiment, run_bench
from tempoquant.bench.experiment import built_in
from tempoquant.bench.plan import plan_runs
from tempoquant.evaluation import save_images

SHORT = {"steps": 2, "batch": 2}
ENTRIES = {
    "name": "e",
    "model": "mine.py:make",
    "steps": 4,
    "calibration": {"samples": 2, "rows_per_step": 2},
    "evaluation": {"images": 2, "noise_samples": 1},
    "runs": [
        {"method": "rtn", "bits": ["W4A4"]},
        {"method": "tdq", "bits": ["W4A4"], "recipe": {"training": SHORT}},
        {"method": "lsq", "bits": ["W4A4"], "label": "range", "recipe": {"training": {**SHORT, "sees": "range"}}},
    ],
}


def test_a_bench_compares_methods_that_train(place):
    save_images(torch.zeros(2, 16, 16, 1, dtype=torch.uint8), place / "images")
    outcome = run_bench(Experiment.model_validate(ENTRIES), place / "out")
    assert not outcome.failures
    rows = {r["label"]: r for r in outcome.records}
    assert rows["tdq"]["size"]["total"] > 0 and rows["range"]["size"] is None
    assert rows["tdq"]["engine"] == "yes" and rows["range"]["engine"] == "no: intervals from the input"
    assert "training" in rows["tdq"]["seconds"] and outcome.skipped == 0
    assert run_bench(Experiment.model_validate(ENTRIES), place / "out").skipped == 3
    # Images make other runs of those that train, and of those alone.
    changed = run_bench(Experiment.model_validate({**ENTRIES, "data": "images"}), place / "out")
    assert changed.skipped == 1 and not changed.failures


def test_the_ablations_that_come_with_the_package_all_train():
    names = [name for name in built_in() if name.startswith("tdq-")]
    assert names == ["tdq-dynamic", "tdq-encodings", "tdq-initializations", "tdq-schemes", "tdq-seeds"]
    for name in names:
        runs = plan_runs(load_experiment(name))
        assert all(run.recipe.training is not None and run.recipe.training.steps == 1000 for run in runs)
        assert len({run.recipe.model_dump_json() for run in runs}) == len(runs) >= 4
