"""``tempoquant bench`` as a user meets it."""

import json
import re
from pathlib import Path

from bench_models import ENTRIES

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
        (("ffhq",), "ffhq names no model: give --model"),
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
    monkeypatch.setattr("tempoquant.report.markdown.own_plots", lambda entry: ())
    monkeypatch.setattr("tempoquant.report.page.own_plots", lambda entry: ())
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
