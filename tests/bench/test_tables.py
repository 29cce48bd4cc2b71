"""Tables from records made by hand, so that every number in them can be worked out."""

import csv
import io
import re
from typing import Any

import pytest

from tempoquant.bench.board import RichBoard
from tempoquant.bench.experiment import Experiment
from tempoquant.bench.policy import integer_engine, policy
from tempoquant.bench.tables import LATEX, Table, write_tables
from tempoquant.methods import method_recipe
from tempoquant.recipe import Recipe
from tiny import changed_recipe

ENDS = {"short": "ends A8", "full": "all but @first A8"}
ALL = {"short": "all layers", "full": "all of them"}


def record(label: str, bits: str, psnr: float | None, seed: int = 0, **changes: Any) -> dict[str, Any]:
    """A record with the parts that tables read."""
    return {
        "id": f"{label} {bits} {seed}",
        "label": label,
        "method": label.split()[0],
        "bits": bits,
        "seed": seed,
        "policy": ALL,
        "engine": "yes",
        "seconds": {"read": 1.0, "units": 10.0},
        "size": {"total": 2_500_000, "ratio": 7.4},
        "paired": {
            "psnr": {"mean": psnr},
            "ssim": {"mean": 0.5},
            "sqnr": {"db": 20.0},
            "cosine": {"mean": 0.99, "min": 0.9},
            "temporal_mismatch": 0.125,
        },
        "distribution": {},
        "machine": {"threads": 1, "cpu": "AVX2"},
        **changes,
    }


def table(records: list[dict[str, Any]], **entries: Any) -> Table:
    runs = [{"method": "rtn", "bits": ["W4A8"]}]
    return Table(Experiment.model_validate({"name": "hand", "runs": runs, **entries}), "fashion32", records)


def cells(markdown: str) -> list[dict[str, str]]:
    """The rows of a Markdown table by column."""
    lines = [line.strip("| ").split(" | ") for line in markdown.splitlines() if line.startswith("|")]
    return [dict(zip(lines[0], line, strict=True)) for line in lines[2:]]


def test_means_and_spreads_over_seeds():
    found = table([record("rtn", "W4A8", psnr, seed) for seed, psnr in enumerate((20.0, 22.0, 27.0))])
    row = cells(found.markdown())[0]
    # Mean 23; squares 9 + 1 + 16 over two: 13, whose root is 3.606.
    assert (row["PSNR dB"], row["seeds"]) == ("23.00 ± 3.61", "3")
    assert (row["SSIM"], row["seconds"], row["MB"], row["mismatch %"]) == (
        "0.500 ± 0.000",
        "11 ± 0",
        "2.50 ± 0.00",
        "12.5 ± 0.0",
    )
    assert cells(table([record("rtn", "W4A8", 20.0)]).markdown())[0]["PSNR dB"] == "20.00"


def test_rows_are_grouped_by_bits_and_sorted():
    given = [("a", "W4A6", 9.0), ("b", "W4A8", 1.0), ("c", "W4A8", 2.0), ("a", "W8A8", 1.0), ("a", "W4A32", 1.0)]
    rows = cells(table([record(*one) for one in given]).markdown())
    order = [("a", "W8A8"), ("a", "W4A32"), ("c", "W4A8"), ("b", "W4A8"), ("a", "W4A6")]
    assert [(row["method"], row["bits"]) for row in rows] == order
    far = {"distribution": {"FD-x": 9.0}}, {"distribution": {"FD-x": 3.0}}
    records = [record("a", "W4A8", 30.0, **far[0]), record("b", "W4A8", 20.0, **far[1])]
    assert [row["method"] for row in cells(table(records).markdown())] == ["a", "b"]
    assert [row["method"] for row in cells(table(records, sort="FD-x").markdown())] == ["b", "a"]


def test_the_best_of_equal_bits_is_bold():
    near, far = {"distribution": {"FD-x": 3.0}}, {"distribution": {"FD-x": 9.0}}
    given = [record("a", "W4A8", 30.0, **far), record("b", "W4A8", 20.0, **near), record("a", "W4A6", 10.0, **far)]
    rows = {(row["method"], row["bits"]): row for row in cells(table(given).markdown())}
    assert (rows["a", "W4A8"]["PSNR dB"], rows["b", "W4A8"]["PSNR dB"]) == ("**30.00**", "20.00")
    assert (rows["a", "W4A8"]["FD-x"], rows["b", "W4A8"]["FD-x"]) == ("9.000", "**3.000**")
    # What prints the same is the best alike, and one alone is not the best of anything.
    assert {rows["a", "W4A8"]["SSIM"], rows["b", "W4A8"]["SSIM"]} == {"**0.500**"}
    assert rows["a", "W4A6"]["PSNR dB"] == "10.00"
    assert "**" not in rows["a", "W4A8"]["seconds"] + rows["a", "W4A8"]["MB"]


def test_only_the_mean_is_bold():
    given = [record(label, "W4A8", psnr, seed) for label, psnr in (("a", 9.0), ("b", 5.0)) for seed in (0, 1)]
    assert cells(table(given).markdown())[0]["PSNR dB"] == "**9.00** ± 0.00"


def test_equal_images_have_an_infinite_ratio():
    rows = cells(table([record("a", "W4A8", 20.0), record("b", "W4A8", None)]).markdown())
    assert [(row["method"], row["PSNR dB"]) for row in rows] == [("b", "**∞**"), ("a", "20.00")]


def test_unknown_seconds_are_marked():
    rows = cells(table([record("a", "W4A8", 20.0, seconds={"read": 1.0, "units": None})]).markdown())
    assert rows[0]["seconds"] == "≥ 1"


def test_seconds_of_processors_and_of_the_papers_schedule_have_columns():
    estimate = {"cpu_seconds": {"units": 7.0}}
    given = [
        record("a", "W4A8", 20.0, cpu_seconds={"read": 2.0, "units": None}, paper_schedule=estimate),
        record("b", "W4A8", 19.0),
    ]
    first, second = cells(table(given).markdown())
    assert (first["seconds"], first["CPU s"], first["CPU s, paper est."]) == ("11", "≥ 2", "7")
    assert (second["CPU s"], second["CPU s, paper est."]) == ("–", "–")
    assert "extrapolated from the time of 10 of them" in table(given).markdown()
    assert "CPU s" not in cells(table(given[1:]).markdown())[0]


def test_policies_stand_in_full_below():
    given = [record("a", "W4A8", 2.0), record("b", "W4A6", 1.0, policy=ENDS), record("c", "W4A6", 0.5, policy=ENDS)]
    text = table(given).markdown()
    assert [row["policy"] for row in cells(text)] == ["all layers (a)", "ends A8 (b)", "ends A8 (b)"]
    assert text.count("Policy (b): all but @first A8.") == 1 and "Policy (a): all of them." in text


def test_published_numbers_stand_beside_ours_and_are_marked():
    targets = [
        {"method": "full precision", "metrics": {"FID": 2.98}},
        {"method": "rtn", "bits": "W4A8", "metrics": {"FID": 3.68, "sFID": 7.65}},
        {"method": "ptqd", "bits": "W4A8", "metrics": {"FID": 5.94}},
    ]
    records = [record("rtn", "W4A8", 20.0), record("rtn released", "W4A8", 21.0), record("rtn", "W4A6", 9.0)]
    text = table(records, targets=targets, source="their paper").markdown()
    rows = {(row["method"], row["bits"]): row for row in cells(text)}
    assert list(rows) == [
        ("full precision (published)", "W32A32"),
        ("rtn released", "W4A8"),
        ("rtn", "W4A8"),
        ("ptqd (published)", "W4A8"),
        ("rtn", "W4A6"),
    ]
    assert (rows["rtn", "W4A8"]["FID (published)"], rows["rtn", "W4A8"]["sFID (published)"]) == ("3.68", "7.65")
    assert rows["rtn released", "W4A8"]["FID (published)"] == "3.68"
    assert rows["rtn", "W4A6"]["FID (published)"] == rows["ptqd (published)", "W4A8"]["PSNR dB"] == "–"
    assert "others' numbers, not ours: their paper" in text and "FID" not in set(text.split(" | "))


def test_latex_is_escaped():
    given = [record("a_b 50% & #1", "W4A8", None), record("c", "W4A8", 2.0)]
    text = table(given, title="x^2 {~} \\").latex()
    assert "a\\_b 50\\% \\& \\#1 & W4A8 & \\textbf{$\\infty$} &" in text
    assert "x\\textasciicircum{}2 \\{\\textasciitilde{}\\} \\textbackslash{}" in text
    assert "mismatch \\%" in text and text.count("\\\\\n\\midrule") == 1
    columns = re.search(r"\\begin\{tabular\}\{(\w+)\}", text)
    header = next(line for line in text.splitlines() if line.startswith("method"))
    assert columns is not None and len(columns[1]) == header.count(" & ") + 1
    assert not re.search(r"(?<!\\)[%#_&](?! )", text.split("\\toprule")[1])
    assert LATEX("± ≥ –") == "$\\pm$ $\\geq$ --"


def test_markdown_is_escaped():
    assert "a\\|b\\_c" in table([record("a|b_c", "W4A8", 1.0)]).markdown()


def test_csv_has_numbers_in_full():
    found = table([record("a", "W4A8", 20.0, 0), record("a", "W4A8", 21.0, 1)])
    row = next(csv.DictReader(io.StringIO(found.csv())))
    assert (float(row["PSNR dB"]), float(row["PSNR dB spread"])) == (20.5, pytest.approx(0.5**0.5))
    assert (row["experiment"], row["bits"], row["seeds"], row["policy"]) == ("hand", "W4A8", "2", "all of them")


def test_all_three_are_written(tmp_path):
    experiment = Experiment.model_validate({"name": "hand", "runs": [{"method": "rtn", "bits": ["W4A8"]}]})
    assert write_tables(experiment, "m", [], tmp_path) == []
    paths = write_tables(experiment, "m", [record("a", "W4A8", 1.0)], tmp_path)
    assert sorted(path.name for path in paths) == ["table.csv", "table.md", "table.tex"]
    assert all(path.stat().st_size > 100 for path in paths)


def test_runs_that_failed_stand_below_the_table(tmp_path):
    experiment = Experiment.model_validate({"name": "hand", "runs": [{"method": "rtn", "bits": ["W4A8"]}]})
    write_tables(
        experiment, "m", [record("a", "W4A8", 1.0)], tmp_path, {"b W4A8 seed 0": "half of the intervals are 0"}
    )
    said = "Failed, and not in the table: b W4A8 seed 0: half of the intervals are 0"
    assert all(said in (tmp_path / name).read_text() for name in ("table.md", "table.tex"))


def test_policies_in_words():
    assert policy(method_recipe("rtn"))["short"] == "all layers"
    ends = policy(method_recipe("rtn", activations=6))
    assert ends["short"] == "ends A8" and "but @first A8, @last A8; attention products quantized" in ends["full"]
    released = policy(method_recipe("tfmq-dm", reading="released"))
    assert released["short"] == "7 exceptions, attention float" and "@shared[1] A32" in released["full"]
    assert "@strided W32A32; attention products float" in released["full"]
    float_activations = policy(method_recipe("rtn", activations=32))
    assert float_activations["short"] == "all layers" and "attention products float" in float_activations["full"]
    others = policy(method_recipe("rtn"), ["up (GRU)"])
    assert others["short"] == "all layers of Linear and Conv2d"
    assert others["full"].startswith("every Linear and Conv2d at the row's bits; float: up (GRU); attention products")
    assert "softmax 16" in policy(method_recipe("rtn", attention={"softmax_bits": 16}))["short"]


def test_what_the_integer_engine_runs():
    assert integer_engine(method_recipe("rtn")) == "yes"
    assert integer_engine(method_recipe("rtn", activations=32)) == "no: float activations"
    assert integer_engine(method_recipe("rtn", weights=16)) == "no: 16-bit weights"
    data = method_recipe("rtn", weights=8).model_dump()
    data["weights"]["symmetric"] = False
    assert integer_engine(Recipe.parse(data)) == "no: asymmetric 8-bit weights"
    tokens = changed_recipe(method_recipe("rtn"), activations={"granularity": "per-token", "range": "minmax"})
    assert integer_engine(tokens) == "no: inputs per token"
    dynamic = changed_recipe(tokens, activations={"dynamic": True})
    assert integer_engine(dynamic) == "no: dynamic inputs"
    assert policy(dynamic)["short"] == "all layers, A per token, A dynamic"
    split = method_recipe("rtn").model_dump()
    split["weights"]["split_shortcuts"] = True
    assert integer_engine(Recipe.parse(split)) == "two accumulations"
    assert policy(Recipe.parse(split))["short"] == "all layers, split shortcuts"
    cached = policy(method_recipe("tfmq-select"))
    assert cached["short"] == "all layers, temporal int8"
    assert "looked up in int8, those with the least error" in cached["full"]


def test_the_board_counts_and_guesses():
    now = [0.0]
    board = RichBoard(clock=lambda: now[0])
    board.planned(4, skipped=2)
    assert board.eta() == "-"
    board.began("a")
    now[0] = 60.0
    board.ended("a", "fine")
    board.began("b")
    board.began("c")
    # One done and two half done of four in a minute: two are left, and take another.
    assert board.eta() == "1:00"
    line = str(board.render().renderables[0])
    assert line == "1 done, 2 running, 1 queued, 2 done before   ETA 1:00"
