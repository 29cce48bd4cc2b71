"""Conditional models quantize, save, load, generate and evaluate like unconditional ones."""

import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

import tempoquant
from conditional_models import dit_pipeline, labelled_denoiser, large_text_pipeline, text_pipeline
from tempoquant.cli import main
from tempoquant.errors import InputError
from tempoquant.evaluation import evaluate_pair
from tempoquant.graph import read_denoiser
from tempoquant.intervals import Clock, TableInterval
from tempoquant.methods import method_recipe
from tempoquant.pipelines import BareModel, condition_variants, resolve
from tempoquant.pipelines.prompts import read_prompts
from tempoquant.progress import Silent
from tempoquant.reconstruction.lockstep import doubled
from tempoquant.stages import probe_of, record_trajectories
from tempoquant.temporal.program_check import temporal_program
from tempoquant.temporal.recorded_inputs import distinct_conditions, most_conditions, temporal_inputs

STEPS, SAMPLES = 3, 4


def recipe(**changes: Any) -> tempoquant.Recipe:
    calibration = {"samples": SAMPLES, "steps": STEPS, "rows": 6, "rows_per_step": 3}
    return method_recipe("tfmq-dm", calibration=calibration, **changes)


def check_whole_way(model, conditioning, folder, denoiser=None):
    """Quantize, save, load, draw and compare; the result before saving."""
    made = tempoquant.quantize(model, recipe(), out=folder / "out", conditioning=conditioning)
    run = {"steps": STEPS, "seed": 7, "conditioning": conditioning}
    images = made.generate(SAMPLES, **run)
    loaded = tempoquant.load(folder / "out", denoiser=denoiser)
    assert torch.isfinite(images).all() and torch.equal(images, loaded.generate(SAMPLES, **run))
    full = resolve(model)
    found = evaluate_pair(
        full, loaded.model, projections=made.blueprint.projections, samples=SAMPLES, noise_samples=2, **run
    )
    numbers = [found["psnr"]["mean"], found["ssim"]["mean"], found["sqnr"]["db"], found["cosine"]["mean"]]
    assert torch.isfinite(torch.tensor(numbers)).all() and found["cosine"]["min"] > 0.9
    return made


def tables(made) -> dict[str, TableInterval]:
    """Every layer whose input has an interval a time step."""
    layers = made.denoiser.module.named_modules()
    found = {name: getattr(layer, "input_interval", None) for name, layer in layers}
    return {name: interval for name, interval in found.items() if isinstance(interval, TableInterval)}


def test_class_labels_of_a_bare_denoiser(tmp_path):
    conditioning = {"class_labels": torch.tensor([0, 1, 2, 4])}
    made = check_whole_way(labelled_denoiser(), conditioning, tmp_path, denoiser=labelled_denoiser())
    # The class is added behind the time embedding's second layer, so only the two before it see time alone.
    assert made.facts["layers"] == {"image": 40, "temporal": 2, "temporal+condition": 8, "condition": 0, "constant": 0}
    projections = {name for name, _ in made.denoiser.module.named_modules() if name.endswith("time_emb_proj")}
    assert tables(made).keys() == {*projections, "time_embedding.linear_1", "time_embedding.linear_2"}
    assert {len(table.scale) for table in tables(made).values()} == {STEPS}


def test_class_labels_of_a_transformer(tmp_path):
    made = check_whole_way(dit_pipeline(), {"class_labels": [1, 2, 3, 999]}, tmp_path)
    assert made.facts["layers"] == {"image": 14, "temporal": 4, "temporal+condition": 3, "condition": 0, "constant": 0}
    blocks = [f"transformer_blocks.{i}.norm1" for i in range(2)]
    parts = ("linear", "emb.timestep_embedder.linear_1", "emb.timestep_embedder.linear_2")
    assert tables(made).keys() == {"proj_out_1", *(f"{block}.{part}" for block in blocks for part in parts)}
    assert made.facts["conditioning"] == {"class_labels": "list"}


def test_prompts(tmp_path):
    conditioning = {"prompt": ["a b", "c", "d e f", "h"], "guidance_scale": 3.0}
    made = check_whole_way(text_pipeline(tmp_path), conditioning, tmp_path)
    assert made.facts["layers"] == {"image": 64, "temporal": 10, "temporal+condition": 0, "condition": 8, "constant": 0}
    keys = [m for name, m in made.denoiser.module.named_modules() if name.endswith(("attn2.to_k", "attn2.to_v"))]
    assert len(keys) == 8 and all(key.weight_scale is not None and key.input_interval is not None for key in keys)
    assert made.facts["conditioning"] == {"prompt": "list", "guidance_scale": 3.0}
    stored = json.loads((tmp_path / "out" / "tempoquant.json").read_text())
    assert "d e f" not in json.dumps(stored)


def test_prompts_with_nested_conditions(tmp_path):
    conditioning = {"prompt": ["a b", "c", "d e f", "h"], "guidance_scale": 3.0}
    made = check_whole_way(large_text_pipeline(tmp_path), conditioning, tmp_path)
    # The pooled prompt joins the time embedding; its own two layers and the keys and values see the prompt alone.
    assert made.facts["layers"] == {"image": 64, "temporal": 2, "temporal+condition": 8, "condition": 10, "constant": 0}
    assert len(tables(made)) == 10


def test_another_set_of_prompts_is_refused_in_one_line(tmp_path):
    model, words = dit_pipeline(), {"out": None, "recording": tmp_path / "recording"}
    tempoquant.quantize(model, recipe(), conditioning={"class_labels": [1, 2, 3, 4]}, **words)
    with pytest.raises(InputError, match=r"conditioning.class_labels is \[1, 2, 3, 4\] there and \[1, 2, 3, 5\] here"):
        tempoquant.quantize(model, recipe(), conditioning={"class_labels": [1, 2, 3, 5]}, **words)


def test_time_steps_are_combined_with_every_condition(tmp_path):
    target, conditioning = resolve(labelled_denoiser()), {"class_labels": torch.tensor([3, 1, 3, 4])}
    probe = probe_of(target, recipe(), conditioning)
    store = record_trajectories(target, recipe(), tmp_path / "recording", Silent(), conditioning)
    graph = read_denoiser(probe)
    program, clock = temporal_program(probe, graph), Clock(store.timesteps, 1, "timestep")
    assert most_conditions(graph) == 16
    given = distinct_conditions(store, 0, 16)
    assert sorted(int(g["class_labels"]) for g in given) == [1, 3, 4]
    assert len(distinct_conditions(store, 0, 2)) == 2
    externals, rows = temporal_inputs(program, store, clock, 16)
    assert rows.tolist() == [0, 0, 0, 1, 1, 1, 2, 2, 2]
    every = [(int(t), g) for t in clock.timesteps for g in given]
    expected = program.collect([t for t, _ in every], [g for _, g in every])
    assert externals.keys() == expected.keys()
    assert all(torch.equal(externals[key], expected[key]) for key in expected)


def test_conditions_that_the_reader_is_shown_differ():
    target = resolve(labelled_denoiser())
    shown = condition_variants(target, {"class_labels": torch.tensor([2, 2, 4])}, steps=2, seed=0)
    assert [shown(2, variant)["class_labels"].tolist() for variant in (0, 1)] == [[2, 2], [4, 4]]
    shown = condition_variants(target, {"class_labels": torch.tensor([2, 2])}, steps=2, seed=0)
    assert [shown(1, variant)["class_labels"].tolist() for variant in (0, 1)] == [[2], [0]]
    # Without a second class the guidance branches differ: 1000 is the class of none.
    shown = condition_variants(resolve(dit_pipeline()), {"class_labels": [5, 5]}, steps=2, seed=0)
    assert [shown(1, variant)["class_labels"].tolist() for variant in (0, 1)] == [[5], [1000]]


def test_a_condition_of_zeros_hides_no_sample():
    """SDXL draws without a prompt from an embedding of zeros, for which cross-attention is zero whatever the sample."""
    target = BareModel(replace(labelled_denoiser(), call=lambda module, sample, timestep, text: sample))
    texts = torch.stack([torch.zeros(2, 3), torch.ones(2, 3)])
    shown = condition_variants(target, {"text": texts}, steps=2, seed=0)
    assert [float(shown(1, variant)["text"].mean()) for variant in (0, 1)] == [1.0, 0.0]


def test_nested_conditioning_is_doubled():
    given = {"added": {"a": torch.tensor([1, 2])}, "b": torch.tensor([[3], [4]]), "c": None}
    twice = doubled(given)
    assert twice["added"]["a"].tolist() == [1, 2, 1, 2] and twice["b"].flatten().tolist() == [3, 4, 3, 4]
    assert twice["c"] is None


LABELLED = "'class_labels', one row a sample (class_labels should be provided"


@pytest.mark.parametrize(
    ("make", "conditioning", "said"),
    [
        (labelled_denoiser, None, LABELLED),
        (labelled_denoiser, {"class_labels": torch.tensor([1])}, "a tensor with 4 rows is needed"),
        (labelled_denoiser, {"class_labels": [0, 1, 2, 3]}, "'class_labels' is list"),
        (labelled_denoiser, {"class_labels": torch.tensor([0, 1, 2, 5])}, "class label 5 is out of range: 0 to 4"),
        (dit_pipeline, None, "give 'class_labels', one a sample"),
        (dit_pipeline, {"class_labels": [1, 2]}, "2 entries for 4 samples"),
        (dit_pipeline, {"class_labels": 3}, "class_labels is one value: a list of 4"),
        (dit_pipeline, {"class_labels": [0, 1, 2, 1000]}, "class label 1000 is out of range: 0 to 999"),
        (dit_pipeline, {"class_labels": [0, 1, 2, "cat"]}, "class label 'cat' is no whole number"),
        (dit_pipeline, {"class_labels": [0, 1, 2, 3], "guidance": 2.0}, "did you mean guidance_scale"),
    ],
)
def test_wrong_conditioning_is_refused_before_any_work(tmp_path, make, conditioning, said):
    with pytest.raises(InputError) as refused:
        tempoquant.quantize(make(), recipe(), out=tmp_path / "out", conditioning=conditioning)
    assert said in str(refused.value) and "\n" not in str(refused.value)
    assert not list(tmp_path.iterdir())


def test_a_target_that_says_it_is_conditional(tmp_path):
    target = BareModel(labelled_denoiser(), conditional=True)
    with pytest.raises(InputError, match="needs conditioning: give its keyword tensors"):
        tempoquant.quantize(target, recipe(), out=tmp_path / "out")


@pytest.fixture
def run(tmp_path, monkeypatch, capfd):
    """Run a command line: its exit code and standard error; it is run beside the models' file ``mine.py``."""
    monkeypatch.chdir(tmp_path)
    made = "from conditional_models import *\n\ndef text():\n    return text_pipeline(Path('.'))\n"
    Path("mine.py").write_text(made)

    def call(*args: Any) -> tuple[int, str]:
        monkeypatch.setattr(sys, "argv", ["tempoquant", *map(str, args)])
        with pytest.raises(SystemExit) as ended:
            main()
        return ended.value.code, capfd.readouterr().err

    return call


FEW = ("--samples", 2, "--steps", 3)
EVALUATE = ("-n", 2, "--noise-samples", 2, "--json", "m.json")


@pytest.mark.parametrize(
    ("model", "given"),
    [
        ("text", ("--prompts", "prompts.tsv")),
        ("dit_pipeline", ("--classes", "0,7,999")),
        ("labelled_denoiser", ("--classes", "0,4")),
    ],
)
def test_the_command_line_goes_the_whole_way(run, model, given):
    Path("prompts.tsv").write_text("Category\tPrompt\nletters\ta b\nletters\tc\n\nletters\td\n")
    bare = model == "labelled_denoiser"
    guided = () if bare else ("--guidance", 2.5)
    code, err = run("quantize", f"mine.py:{model}", *given, *guided, *FEW, "-o", "out")
    assert code == 0, err
    facts = json.loads(Path("out/tempoquant.json").read_text())
    assert bare or facts["conditioning"]["guidance_scale"] == 2.5
    filled = ("--denoiser", f"mine.py:{model}") if bare else ()
    code, err = run("generate", "out", "-n", 3, *given, *filled, "-o", "grid.png")
    assert code == 0 and Path("grid.png").is_file(), err
    code, err = run("evaluate", "out", "--reference", f"mine.py:{model}", *given, *EVALUATE)
    assert code == 0, err
    found = json.loads(Path("m.json").read_text())
    assert found["psnr"]["mean"] > 5 and found["sqnr"]["db"] > 5


def test_labels_are_frozen_from_the_command_line(run):
    quantize = ("quantize", "mine.py:dit_pipeline", "--classes", "0,7", *FEW, "-o", "out")
    for given, said in (
        (("--freeze-schedule",), "frozen for given labels or prompts alone"),
        (("--freeze-labels", "1"), "is of use with --freeze-schedule alone"),
        (("--freeze-schedule", "--freeze-labels", "2000"), "class label 2000 is out of range"),
        (("--freeze-schedule", "--freeze-prompts", "mine.py"), "takes no --prompts"),
    ):
        code, err = run(*quantize, *given)
        assert code == 2 and said in err and not Path("out").exists(), err
    code, err = run(*quantize, "--freeze-schedule", "--freeze-labels", "1,7,207")
    assert code == 0, err
    assert json.loads(Path("out/tempoquant.json").read_text())["frozen_parameters"] == 21280
    code, err = run("generate", "out", "-n", 2, "--classes", "207,1", "-o", "grid.png")
    assert code == 0, err
    code, err = run("generate", "out", "-n", 2, "--classes", "208", "-o", "other.png")
    assert code == 2 and "class_labels 208 is none of the 4 conditions that this denoiser is frozen to" in err


@pytest.mark.parametrize(
    ("model", "given", "said"),
    [
        ("text", (), "draws from prompts: give --prompts FILE"),
        ("text", ("--classes", "1"), "takes no --classes: give --prompts FILE instead"),
        ("text", ("--prompts", "none.txt"), "none.txt: no such file"),
        ("text", ("--prompts", "empty.txt"), "empty.txt holds no prompt"),
        ("text", ("--prompts", "bytes.txt"), "bytes.txt cannot be read as text"),
        ("text", ("--prompts", "table.csv"), "has no column 'prompt'; its columns are: a, b"),
        ("text", ("--prompts", "mine.py", "--guidance", "nan"), "--guidance nan is out of range"),
        ("dit_pipeline", (), "draws from classes: give --classes 0,1,2"),
        ("dit_pipeline", ("--classes", "1,x"), "--classes '1,x': whole numbers"),
        ("dit_pipeline", ("--classes", "1,2000"), "class label 2000 is out of range: 0 to 999"),
        ("labelled_denoiser", (), "give --classes 0,1,2"),
        ("labelled_denoiser", ("--classes", "0", "--guidance", "2"), "takes no --guidance"),
        ("labelled_denoiser", ("--prompts", "mine.py"), "takes no --prompts"),
    ],
)
@pytest.mark.parametrize("command", ["quantize", "generate"])
def test_flags_that_do_not_fit_are_refused_in_one_line(run, command, model, given, said):
    Path("empty.txt").write_text("\n \n")
    Path("bytes.txt").write_bytes(b"\xff\xfe\x00")
    Path("table.csv").write_text("a,b\n1,2\n")
    code, err = run(command, f"mine.py:{model}", *given, *(FEW if command == "quantize" else ()), "-o", "out")
    lines = [line for line in err.splitlines() if line.startswith("tempoquant:")]
    assert code == 2 and len(lines) == 1 and said in lines[0] and "Traceback" not in err, err
    assert not Path("out").exists() and not Path("out.partial").exists()


def test_prompts_of_a_file(tmp_path):
    (tmp_path / "a.txt").write_text("\ufeffa cat, sitting\n\n  a dog\n", encoding="utf-8")
    assert read_prompts(tmp_path / "a.txt") == ["a cat, sitting", "a dog"]
    (tmp_path / "a.csv").write_text('id,prompt\n1,"a cat, sitting"\n2,"two\nlines"\n3,\n4\n')
    assert read_prompts(tmp_path / "a.csv") == ["a cat, sitting", "two\nlines"]
