"""Benches of a tiny model: shared work is done once, a killed bench goes on, and several processes give the same."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from bench_models import ENTRIES, MODEL
from filelock import FileLock

import tempoquant
from corners import Corners, pictures
from shaped_models import SHAPED
from tempoquant.bench import Experiment, paper_schedule, run_bench
from tempoquant.bench.records import Records
from tempoquant.bench.references import conditioning_of
from tempoquant.errors import InputError, TempoquantError
from tempoquant.evaluation import EXTRACTORS, distribution_metrics, save_images
from tempoquant.pipelines import resolve, to_images
from tempoquant.recipe import Recipe
from tempoquant.stopwatch import Stopwatch


def experiment(**changes: Any) -> Experiment:
    return Experiment.model_validate({**ENTRIES, **changes})


def ranged(name: str, body: str) -> str:
    """A plugin with an activation range."""
    head = f"from tempoquant.extension import ACTIVATION_RANGES\n\n\n@ACTIVATION_RANGES.register({name!r})\n"
    return f"{head}def search(values, bits, symmetric):\n    {body}\n"


def results(records: list[dict[str, Any]]) -> dict[str, Any]:
    """What must not depend on how a bench was run."""
    keep = ("bits", "paired", "distribution", "size", "policy", "engine", "recipe", "machine")
    return {f"{r['label']} {r['bits']} {r['seed']}": {key: r[key] for key in keep} for r in records}


def made(folder: Path) -> dict[str, int]:
    """When every file of shared work was written."""
    files = (path for path in (folder / "work").rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): path.stat().st_mtime_ns for path in files}


def test_two_benches_do_not_write_to_one_folder(place):
    run_bench(experiment(runs=[{"method": "rtn", "bits": ["W4A8"]}]), place / "out")
    with FileLock(place / "out" / ".lock"), pytest.raises(InputError, match="another bench is writing to"):
        run_bench(experiment(), place / "out")
    assert len(run_bench(experiment(), place / "out").records) == 3


def test_samples_that_are_no_images_are_judged_by_their_error(place):
    Path("shaped.py").write_text(SHAPED)
    with pytest.warns(UserWarning, match=r"samples of \(3, 16\) have no PSNR or SSIM"):
        outcome = run_bench(experiment(model="shaped.py:sequence"), place / "out")
    assert not outcome.failures and len(outcome.records) == 3 and not (place / "out" / "samples").exists()
    text = (place / "out" / "table.md").read_text()
    header = next(line for line in text.splitlines() if line.startswith("| method"))
    assert "relative error %" in header and "SQNR" in header and "PSNR" not in header and "SSIM" not in header
    errors = [100 * record["paired"]["relative_error"]["mean"] for record in outcome.records]
    assert all(f"{error:.2f}" in text for error in errors)


def test_a_data_range_of_its_own_stands_below_the_table(place):
    with pytest.warns(UserWarning, match=r"samples of small reach from"):
        (record,) = run_bench(experiment(runs=[{"method": "rtn", "bits": ["W4A8"]}]), place / "out").records
    own = record["paired"]["data_range"]
    assert own > 4 and f"own data range, {own:.3g}, in place of 2" in (place / "out" / "table.md").read_text()


def test_a_bench_shares_what_runs_have_in_common(place):
    outcome = run_bench(experiment(seeds=[0, 1]), place / "out")
    assert len(outcome.records) == 6 and not outcome.failures and outcome.skipped == 0
    kinds = [path.name.split("-")[0] for path in (place / "out" / "work").iterdir() if path.is_dir()]
    assert sorted(kinds) == ["full", "recording", "recording", "units", "units", "units", "units"]
    first = results(outcome.records)["tfmq-dm W4A8 0"]
    assert first["machine"]["threads"] == torch.get_num_threads() == 1
    assert first["paired"]["psnr"]["mean"] > 5 and len(first["paired"]["psnr"]["per_image"]) == 2
    assert {path.name for path in (place / "out" / "samples").iterdir()} >= {"rtn W4A8 seed 0.png"}
    seconds = {f"{r['label']} {r['bits']} {r['seed']}": r["seconds"] for r in outcome.records}
    # What two runs share counts for both, as if each had been alone.
    wide, narrow = seconds["tfmq-dm W4A8 0"], seconds["tfmq-dm W4A6 0"]
    assert all(wide[stage] == narrow[stage] > 0 for stage in ("record", "units", "temporal features"))


def test_processors_are_timed_too(place):
    for record in run_bench(experiment(), place / "out").records:
        assert record["cpu_seconds"].keys() == record["seconds"].keys() >= {"read", "record", "units"}
        assert sum(record["cpu_seconds"].values()) > 0
    header = (place / "out" / "table.md").read_text().splitlines()[4]
    assert "| seconds | CPU s |" in header and "paper est." not in header


def test_the_papers_schedule_is_estimated_once_for_equal_work(place, monkeypatch):
    trials = []

    def job(target, recipe, places, progress, conditioning, settings):
        """A second to read, and two for each iteration of a unit; TIAR takes one for each of its own."""
        n = settings.iterations
        trials.append((recipe.method, n, settings.batch, settings.compensate))
        seconds = {"read": 1.0, "units": 3.0 + 2 * n, "temporal features": 1.0 * settings.temporal_iterations}
        if recipe.method == "rtn":
            seconds |= {"units": 0.5, "temporal features": 0.5}
        return SimpleNamespace(watch=Stopwatch(seconds, {stage: 2 * s for stage, s in seconds.items()}))

    monkeypatch.setattr(paper_schedule, "run_job", job)
    outcome = run_bench(experiment(paper_schedule=True), place / "out")
    assert trials == [(method, n, 32, False) for method in ("rtn", "tfmq-dm") for n in (2, 12)]
    found = {f"{r['label']} {r['bits']}": r["paper_schedule"]["seconds"] for r in outcome.records}
    # 20,000 iterations of two seconds, and of one.
    assert found["tfmq-dm W4A8"] == found["tfmq-dm W4A6"]
    assert (found["tfmq-dm W4A8"]["units"], found["tfmq-dm W4A8"]["temporal features"]) == (40_003.0, 20_000.0)
    assert (found["rtn W4A8"]["units"], found["rtn W4A8"]["read"]) == (0.5, 1.0)
    assert outcome.records[0]["paper_schedule"]["cpu_seconds"]["read"] == 2.0
    assert "| CPU s, paper est. |" in (place / "out" / "table.md").read_text()
    run_bench(experiment(paper_schedule=True), place / "out")
    assert len(trials) == 4


def test_the_papers_schedule_is_measured(place):
    outcome = run_bench(experiment(paper_schedule=True, runs=ENTRIES["runs"][1:]), place / "out")
    record = outcome.records[0]
    assert record["paper_schedule"]["cpu_seconds"].keys() == record["cpu_seconds"].keys()
    assert sum(record["paper_schedule"]["cpu_seconds"].values()) > 10 * sum(record["cpu_seconds"].values())


def test_what_no_recipe_can_quantize_stands_in_the_policy(place):
    volume = "nn.Sequential(nn.Unflatten(1, (2, 4)), nn.ConvTranspose3d(2, 2, 3, padding=1), nn.Flatten(1, 2))"
    deep = f"def deep():\n    made = make()\n    made.module.middle = {volume}\n    return made\n"
    (place / "mine.py").write_text(f"{MODEL}\n\n{deep}")
    runs = [{"method": "rtn", "bits": ["W4A8"]}]
    with pytest.warns(UserWarning, match="of the arithmetic is quantized"):
        record = run_bench(experiment(model="mine.py:deep", runs=runs), place / "out").records[0]
    # 2 x 2 x 27 weights for four slices; the ends of 1 x 8 x 9, and 4 x 8 + 8 x 8 of the time step.
    other, ours = 4 * 256 * 108, 2 * 256 * 72 + 96
    share = f"{100 * other / (other + ours):.1f} % of the arithmetic"
    assert record["policy"]["short"] == "all layers of Linear and Conv2d"
    assert record["policy"]["full"].startswith(
        "every Linear and Conv2d at the row's bits; float: middle.1 (ConvTranspose3d) "
        f"(this kind of layer is not supported, {share}); attention products quantized"
    )
    assert (
        run_bench(experiment(runs=runs), place / "plain")
        .records[0]["policy"]["full"]
        .startswith("every Linear and Conv2d at the row's bits; attention")
    )


def test_equal_runs_alone_give_the_same(place):
    together = results(run_bench(experiment(), place / "out").records)
    alone = experiment(runs=[{"method": "tfmq-dm", "bits": ["W4A6"]}])
    assert together["tfmq-dm W4A6 0"] == results(run_bench(alone, place / "alone").records)["tfmq-dm W4A6 0"]


def test_a_bench_goes_on_where_it_was_stopped(place):
    whole = run_bench(experiment(), place / "whole")
    run_bench(experiment(), place / "out")
    path = place / "out" / "results.jsonl"
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(lines[0] + lines[1][: len(lines[1]) // 2])
    before = made(place / "out")
    again = run_bench(experiment(), place / "out")
    assert again.skipped == 1 and results(again.records) == results(whole.records)
    assert [json.loads(line)["label"] for line in path.read_text().splitlines()] == ["rtn", "tfmq-dm", "tfmq-dm"]
    assert path.read_bytes().startswith(lines[0]) and made(place / "out") == before
    done = path.read_bytes()
    assert run_bench(experiment(), place / "out").skipped == 3 and path.read_bytes() == done
    assert (place / "out" / "table.md").read_text().count("| tfmq-dm |") == 2


def test_what_decides_a_run_decides_whether_it_is_done(place):
    first = run_bench(experiment(), place / "out")
    relabelled = [{**run, "label": f"my {run['method']}"} for run in ENTRIES["runs"]]
    outcome = run_bench(experiment(runs=relabelled), place / "out")
    assert outcome.skipped == 3 and {r["label"] for r in outcome.records} == {"my rtn", "my tfmq-dm"}
    for changes in (
        {"evaluation": {"images": 1, "noise_samples": 1}},
        {"calibration": {**ENTRIES["calibration"], "samples": 3}},
        {"seeds": [1]},
    ):
        assert run_bench(experiment(**changes), place / "out").skipped == 0
    assert len(Records(place / "out" / "results.jsonl").records) == 12
    assert results(run_bench(experiment(), place / "out").records) == results(first.records)


def test_work_that_died_before_its_time_was_known_is_marked(place):
    run_bench(experiment(), place / "out")
    for path in (place / "out" / "work").glob("units-*.seconds.json"):
        path.unlink()
    (place / "out" / "results.jsonl").write_text("")
    records = run_bench(experiment(), place / "out").records
    assert [record["seconds"]["units"] for record in records] == [None] * 3
    assert "| ≥ " in (place / "out" / "table.md").read_text()


def test_two_processes_give_what_one_gives(place, monkeypatch):
    # Workers have neither this test's path nor its shortened efforts, so nothing may be learned.
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    calm = {"temporal": {"reconstruction": "nearest"}}
    runs = [{**run, "recipe": calm} for run in ENTRIES["runs"]]
    one = run_bench(experiment(runs=runs), place / "one", jobs=1, threads=1)
    two = run_bench(experiment(runs=runs), place / "two", jobs=2, threads=1)
    assert results(one.records) == results(two.records) and len(two.records) == 3
    assert len((place / "two" / "results.jsonl").read_text().splitlines()) == 3


def test_every_width_runs(place):
    bits = ["W32A32", "W8A8", "W6A6", "W4A32", "W4A8", "W4A6", "W4A4", "W3A8"]
    outcome = run_bench(experiment(runs=[{"method": "rtn", "bits": bits}]), place / "out")
    psnr = {record["bits"]: record["paired"]["psnr"]["mean"] for record in outcome.records}
    assert list(psnr) == bits
    # Nothing is quantized at W32A32: images are equal, and their ratio is infinite.
    assert psnr.pop("W32A32") is None and all(psnr.values())
    assert psnr["W8A8"] == max(psnr.values()) and psnr["W4A32"] > psnr["W4A4"]
    assert [line.split(" | ")[1] for line in (place / "out" / "table.md").read_text().splitlines()[6:14]] == bits


def test_a_worker_that_dies_is_told(place, monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    (place / "plug.py").write_text(ranged("fatal", "__import__('os')._exit(9)"))
    runs = [{"method": "rtn", "bits": ["W8A8"], "recipe": {"activations": {"range": "fatal"}}}]
    with pytest.raises(TempoquantError, match="rtn W8A8 seed 0: a worker process died"):
        run_bench(experiment(runs=runs), place / "out", jobs=2, threads=1, plugins=[place / "plug.py"])


def test_a_run_that_fails_does_not_stop_the_others(place):
    (place / "plug.py").write_text(ranged("breaking", "1 / 0"))
    failing = {"method": "rtn", "bits": ["W8A8"], "recipe": {"activations": {"range": "breaking"}}}
    runs = [failing, *ENTRIES["runs"]]
    outcome = run_bench(experiment(runs=runs), place / "out", plugins=[place / "plug.py"])
    assert len(outcome.records) == 3
    assert outcome.failures == {
        "rtn W8A8 seed 0": "activation range 'breaking' failed: ZeroDivisionError: division by zero"
    }
    assert run_bench(experiment(runs=runs), place / "out").skipped == 3


def test_an_edited_plugin_is_another_method(place):
    plugin = place / "plug.py"
    plugin.write_text(ranged("wide", "return values.amin(1) - 1, values.amax(1)"))
    runs = [{**ENTRIES["runs"][0], "recipe": {"activations": {"range": "wide"}}}]
    assert run_bench(experiment(runs=runs), place / "out", plugins=[plugin]).skipped == 0
    assert run_bench(experiment(runs=runs), place / "out", plugins=[plugin]).skipped == 1
    plugin.write_text(plugin.read_text() + "# edited\n")
    assert run_bench(experiment(runs=runs), place / "out", plugins=[plugin]).skipped == 0


def test_distances_come_with_an_extractor(place, monkeypatch):
    monkeypatch.setitem(EXTRACTORS, "corners", lambda weights, device: Corners())
    wanted = {**ENTRIES["evaluation"], "distribution": {"features": "corners", "samples": 8}}
    outcome = run_bench(experiment(evaluation=wanted, runs=ENTRIES["runs"][:1]), place / "out")
    assert outcome.records[0]["distribution"]["FD-corners"] >= 0
    assert "| FD-corners |" in outcome.tables[0].read_text()


def test_metrics_have_columns_of_their_own(place, monkeypatch):
    monkeypatch.setitem(EXTRACTORS, "corners", lambda weights, device: Corners())
    monkeypatch.setenv("XDG_CACHE_HOME", str(place / "cache"))
    save_images(pictures(24, size=16), place / "real")
    many = {"features": "corners", "samples": 12, "metrics": ["fd", "kid", "pr"], "reference": "real"}
    settings = {"evaluation": {**ENTRIES["evaluation"], "distribution": many}, "runs": ENTRIES["runs"][:1]}
    record = run_bench(experiment(**settings), place / "out").records[0]
    bare = resolve("mine.py:make")
    quantized = tempoquant.quantize(bare, Recipe.parse(record["recipe"])).model
    drawn = to_images(quantized.generate(range(100_000, 100_012), steps=4, seed=1000))
    wanted = distribution_metrics(drawn, "real", Corners(), ["fd", "kid", "pr"], seed=1000)
    assert record["distribution"] == pytest.approx(
        {
            "FD-corners": wanted["fd"]["value"],
            "KD-corners": wanted["kid"]["value"],
            "precision-corners": wanted["pr"]["precision"],
            "recall-corners": wanted["pr"]["recall"],
        }
    )
    assert record["distribution details"]["reference"]["images"] == 24
    assert run_bench(experiment(**settings), place / "out").skipped == 1
    save_images(pictures(1, seed=9, size=16), place / "real" / "more")
    assert run_bench(experiment(**settings), place / "out").skipped == 0


def test_later_entries_of_distributions_rename_no_run():
    """Results that were made before them stay done."""
    old = {**ENTRIES["evaluation"], "distribution": {"features": "fashion32-cnn", "samples": 512}}
    entries = experiment(evaluation=old).evaluation.entries()
    assert entries["distribution"] == old["distribution"]
    many = {**old["distribution"], "metrics": ["kid"]}
    assert experiment(evaluation={**old, "distribution": many}).evaluation.entries()["distribution"] == many


def test_conditions_go_in_turn_to_calibration_and_evaluation(place):
    classes = {"conditioning": {"classes": {"last": 4}}}
    found, target = experiment(model="mine.py:labelled", **classes), resolve("mine.py:labelled")
    assert conditioning_of(found, target, 2, evaluated=False)["class_labels"].tolist() == [0, 1]
    assert conditioning_of(found, target, 4, evaluated=True)["class_labels"].tolist() == [2, 3, 4, 0]
    other = {"evaluation": {**ENTRIES["evaluation"], "classes": [3]}}
    found = experiment(model="mine.py:labelled", **classes, **other)
    assert conditioning_of(found, target, 2, evaluated=True)["class_labels"].tolist() == [3, 3]
    # Features of this model follow the class too: a table of them is not for it, and tempo-fast does without.
    runs = [ENTRIES["runs"][0], {"method": "tempo-fast", "bits": ["W4A8"]}]
    outcome = run_bench(experiment(model="mine.py:labelled", runs=runs, **classes), place / "out")
    assert not outcome.failures and {record["label"] for record in outcome.records} == {"rtn", "tempo-fast"}
    assert outcome.records[0]["paired"]["psnr"]["mean"] > 5
    with pytest.raises(InputError, match="class label 9 is out of range"):
        run_bench(experiment(model="mine.py:labelled", conditioning={"classes": [9]}), place / "no")


REFUSED = {
    "no model": ({"model": None}, {}, "tiny names no model: give --model"),
    "model": ({"model": "fashion3"}, {}, "did you mean fashion32"),
    "jobs": ({}, {"jobs": 0}, "jobs = 0"),
    "threads": ({}, {"threads": 0}, "threads = 0"),
    "steps": ({"steps": 101}, {}, "1 to 100"),
    "eta": ({"eta": 0.5, "sampler": "plms"}, {}, "eta 0.5 needs the ddim sampler"),
    "prompts": ({"conditioning": {"prompts": "none.txt"}}, {}, "none.txt: no such file"),
    "guidance": ({"conditioning": {"guidance": 2}}, {}, "guidance"),
    "plugin": ({}, {"plugins": [Path("none.py")]}, "no plugin file none.py"),
    "metric": ({"evaluation": {"distribution": {"features": "fashion32-cnn", "metrics": ["fdi"]}}}, {}, "mean fd"),
    "extractor": ({"evaluation": {"distribution": {"metrics": ["fd"]}}}, {}, "fd needs a feature extractor"),
    "clip": ({"evaluation": {"distribution": {"metrics": ["clip"]}}}, {}, "clip needs a CLIP model"),
    "reference": (
        {"evaluation": {"distribution": {"features": "fashion32-cnn", "reference": "none"}}},
        {},
        "none: no such file or folder",
    ),
    "size": (
        {"evaluation": {"distribution": {"features": "fashion32-cnn"}}},
        {},
        "features are of grey 32x32 images, not (1, 16, 16)",
    ),
    "policy": ({"recipe": {"policy": [{"match": "nothing*", "weight_bits": 8}]}}, {}, "nothing*"),
}


@pytest.mark.parametrize(("entries", "options", "said"), REFUSED.values(), ids=REFUSED)
def test_what_does_not_fit_is_refused_before_any_work(place, entries, options, said):
    with pytest.raises(InputError) as caught:
        run_bench(experiment(**entries), place / "out", **options)
    assert said in str(caught.value) and "\n" not in str(caught.value) and not (place / "out").exists()


def test_other_folders_are_left_alone(place):
    (place / "photos").mkdir()
    (place / "photos" / "cat.png").touch()
    with pytest.raises(InputError, match="no bench's folder"):
        run_bench(experiment(), place / "photos")
    assert [path.name for path in (place / "photos").iterdir()] == ["cat.png"]


@pytest.mark.slow
def test_a_killed_process_is_resumed(place):
    Path("tiny.yaml").write_text(json.dumps({**ENTRIES, "seeds": list(range(8))}))
    code = "from tempoquant.cli import main; main()"
    environment = {"env": os.environ | {"OMP_NUM_THREADS": "1"}, "stdout": subprocess.DEVNULL}

    def command(out: str) -> list[str]:
        return [sys.executable, "-c", code, "bench", "tiny.yaml", "-o", out, "--jobs", "2", "--threads", "1"]

    subprocess.run(command("whole"), check=True, **environment)
    process = subprocess.Popen(command("out"), **environment)
    path, deadline = Path("out/results.jsonl"), time.monotonic() + 120
    while not (path.exists() and path.read_bytes().count(b"\n") >= 2) and time.monotonic() < deadline:
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.wait()
    killed = path.read_bytes().count(b"\n")
    subprocess.run(command("out"), check=True, **environment)
    assert 2 <= killed < 24
    found = [results(Records(Path(folder) / "results.jsonl").records) for folder in ("out", "whole")]
    assert found[0] == found[1] and len(found[0]) == 24
