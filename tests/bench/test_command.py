"""``tempoquant bench`` as a user meets it."""

import json
import re
from pathlib import Path

import pytest
from bench_models import ENTRIES

from tempoquant.bench import Experiment, load_experiment, plan_runs, settings

YAML = json.dumps({key: value for key, value in ENTRIES.items() if key != "name"})


def test_the_command_line(run):
    Path("tiny.yaml").write_text(YAML)
    code, out, err = run("bench", "tiny.yaml", "-o", "out", "--seeds", "0,1", "--json", "r.json")
    assert code == 0 and "| tfmq-dm | W4A6 |" in out and "out: 6 runs (0 done before)" in out, err
    assert len(re.findall(r"PSNR [\d.]+ dB", err)) == 6 and "6/6 " in err
    assert len(json.loads(Path("r.json").read_text())) == 6
    code, out, _ = run("bench", "tiny.yaml", "-o", "out")
    assert code == 0 and "out: 3 runs (3 done before)" in out
    for args, said in (
        (("tiny.yml",), "no experiment file"),
        (("fashion3",), "did you mean fashion32"),
        (("tiny.yaml", "--seeds", "a"), "--seeds 'a'"),
        (("tiny.yaml", "--classes", "1"), "small takes no class_labels: its forward takes sample, timestep"),
        (("tiny.yaml", "--json", "r.json"), "r.json exists"),
        (("tiny.yaml", "--methods", "tfmq"), "did you mean tfmq-dm"),
        (("tiny.yaml", "--methods", "rtn", "--bits", "W4A6"), "tiny has no run of rtn, W4A6"),
        (("tiny.yaml", "--bits", "4"), "W4A8 and the like"),
        (("tiny.yaml", "--set", "steps"), "'steps': KEY=VALUE is needed"),
        (("tiny.yaml", "--set", "steps=["), "'[' is no YAML value"),
        (("tiny.yaml", "--set", "evaluation.image=3"), "evaluation.image = 3: unknown entry"),
        (("tiny.yaml", "--set", "recipe.efort=paper"), "efort = 'paper': unknown entry 'efort': did you mean effort"),
        (("tiny.yaml", "--set", "recipe.effort=slow"), "effort = 'slow'"),
        (("tiny.yaml", "--set", "recipe.weights.bits=8"), "weights.bits are given by the run's bits"),
        (("ffhq",), "ffhq names no model: give --model"),
        (("ffhq", "--set", "recipe.effort=paper", "--model", "none.py:make"), "no such file: none.py"),
        (("mine.py:none",), "mine.py has no function 'none'"),
    ):
        code, out, err = run("bench", *args, "-o", "new")
        assert (code, out) == (2, "") and said in err and err.count("\n") == 1, err
        assert not Path("new").exists()


def test_an_experiment_is_changed_on_the_command_line(run):
    Path("tiny.yaml").write_text(YAML)
    entries = ("evaluation.images=1", "evaluation.noise_samples=1", "calibration={samples: 1}")
    changes = [part for entry in entries for part in ("--set", entry)]
    code, out, err = run("bench", "tiny.yaml", "-o", "out", *changes, "--methods", "tfmq-dm", "--bits", "W4A6")
    assert code == 0 and "out: 1 runs" in out, err
    record = json.loads(Path("out/results.jsonl").read_text())
    assert (record["label"], record["bits"], record["evaluation"]["images"]) == ("tfmq-dm", "W4A6", 1)
    # What is not named stays.
    assert record["recipe"]["calibration"]["samples"] == 1 and record["recipe"]["calibration"]["rows"] == 8


@pytest.mark.parametrize("named", ["cifar10-ddim", "imagenet", "lsun-churches-tdq", "fashion32"])
def test_one_effort_for_all_runs_of_an_experiment(named):
    plain, changed = (
        plan_runs(load_experiment(named, model="fashion32", **settings(texts)))
        for texts in ((), ("recipe.effort=paper",))
    )
    assert {run.recipe.effort for run in plain} == {"fast"} and {run.recipe.effort for run in changed} == {"paper"}
    # Rows keep their names, and nothing else changes.
    assert [run.name for run in plain] == [run.name for run in changed]
    assert [run.recipe.model_copy(update={"effort": "fast"}) for run in changed] == [run.recipe for run in plain]


def test_a_run_of_an_effort_of_its_own_keeps_it():
    entries = {**ENTRIES, "recipe": {"effort": "paper", "reading": "released"}}
    runs = [{"method": "tfmq-dm", "bits": ["W4A8"]}, {"method": "tfmq-dm", "bits": ["W4A8"], "effort": "fast"}]
    runs += [{"method": "rtn", "bits": ["W4A8"], "reading": "paper"}]
    first, second, third = plan_runs(
        Experiment.model_validate({**entries, "runs": [{**runs[0], "label": "a"}, *runs[1:]]})
    )
    assert (first.recipe.effort, first.recipe.reading) == ("paper", "released")
    assert (second.recipe.effort, second.recipe.reading) == ("fast", "released")
    assert (third.recipe.effort, third.recipe.reading) == ("paper", "paper")


def test_a_model_in_the_place_of_an_experiment(run):
    changes = ("steps=3", "calibration.samples=1", "evaluation.images=2", "evaluation.noise_samples=1")
    few = [part for entry in changes for part in ("--set", entry)]
    code, out, err = run("bench", "mine.py:make", *few, "--methods", "rtn,tfmq-dm", "--bits", "W4A8")
    assert code == 0 and "bench/make: 2 runs (0 done before)" in out, err
    records = [json.loads(line) for line in Path("bench/make/results.jsonl").read_text().splitlines()]
    assert {record["method"] for record in records} == {"rtn", "tfmq-dm"}
    assert {(record["experiment"], record["model"], record["bits"]) for record in records} == {
        ("make", "small", "W4A8")
    }


def test_the_model_is_loaded_once(run, monkeypatch):
    monkeypatch.setattr("tempoquant.report.page.model_plots", lambda entry: ())
    Path("count.py").write_text(
        Path("mine.py").read_text() + "\n\ndef counted():\n    open('calls', 'a').write('x')\n    return make()\n"
    )
    Path("tiny.yaml").write_text(YAML)
    args = ("bench", "tiny.yaml", "--model", "count.py:counted", "-o", "out", "--methods", "rtn")
    code, _, err = run(*args, "--report", "page.html")
    # Once for the runs and to diagnose by; the page's own reading of the folder needs the factory again.
    assert code == 0 and Path("calls").read_text() == "x", err


def test_a_failed_run_fails_the_command(run):
    Path("plug.py").write_text(
        "from tempoquant.extension import ACTIVATION_RANGES\n"
        "ACTIVATION_RANGES.register('empty')(lambda values, bits, symmetric: (values[:0], values[:0]))\n"
    )
    runs = [*ENTRIES["runs"][:1], {"method": "rtn", "bits": ["W8A8"], "recipe": {"activations": {"range": "empty"}}}]
    Path("tiny.yaml").write_text(json.dumps({**json.loads(YAML), "runs": runs}))
    code, out, err = run("bench", "tiny.yaml", "-o", "out", "--plugin", "plug.py")
    assert code == 1 and "| rtn | W4A8 |" in out
    assert "tempoquant: rtn W8A8 seed 0: activation range 'empty' must return (low, high)" in err.splitlines()[-1]


def test_the_first_table_is_the_makefiles():
    makefile = (Path(__file__).parents[2] / "Makefile").read_text()
    assert "tempoquant bench fashion32 -o out/bench" in makefile


def test_a_page_about_the_models(run, monkeypatch):
    # Figures take their time.
    monkeypatch.setattr("tempoquant.report.markdown.model_plots", lambda entry: ())
    monkeypatch.setattr("tempoquant.report.page.model_plots", lambda entry: ())
    Path("tiny.yaml").write_text(YAML)
    bench = ("bench", "tiny.yaml", "-o", "out", "--methods", "tfmq-dm")
    assert run(*bench)[0] == 0 and not Path("out/models").exists()
    # Records are there and models are not: those are made again, on top of the finished weights.
    code, out, err = run(*bench, "--report", "page.md")
    assert code == 0 and "page.md" in out and "out: 2 runs (0 done before)" in out, err
    text = Path("page.md").read_text()
    assert "tfmq-dm W4A6" in text and "--reference mine.py:make" in text and "PSNR of 2 images" in text
    kept = [folder.name.rsplit("-", 1)[0] for folder in sorted(Path("out/models").iterdir())]
    assert kept == ["tfmq-dm-W4A6-seed-0", "tfmq-dm-W4A8-seed-0"]
    before = [path.stat().st_mtime_ns for path in sorted(Path("out").rglob("*.safetensors"))]
    code, out, err = run(*bench, "--report", "again.html")
    assert code == 0 and "out: 2 runs (2 done before)" in out, err
    assert before == [path.stat().st_mtime_ns for path in sorted(Path("out").rglob("*.safetensors"))]
    code, out, err = run(*bench, "--report", "page.md")
    assert (code, out) == (2, "") and "page.md exists" in err
