"""Experiments are checked whole before any work, and the built-in ones are what the papers say."""

import json
from pathlib import Path

import pytest

from tempoquant.bench import built_in, load_experiment, parse_bits, plan_runs
from tempoquant.bench.plan import run_identity
from tempoquant.errors import InputError
from tempoquant.pipelines import BUNDLED, resolve, state_hash

RESULTS = Path(__file__).parents[2] / "docs" / "results"

RTN = {"method": "rtn", "bits": ["W4A8"]}


def write(path: Path, text: str) -> str:
    path.write_text(text)
    return str(path)


@pytest.fixture
def small(tmp_path) -> str:
    return write(tmp_path / "small.yaml", "model: fashion32\nsteps: 4\nruns: [{method: rtn, bits: [W4A8, W4A6]}]")


def test_bits_are_names():
    assert [parse_bits(b) for b in ("W4A32", "W8A8", "W4A6", "W3A8")] == [(4, 32), (8, 8), (4, 6), (3, 8)]
    for wrong in ("W4", "4/8", "w4a8", "W1A8", "W4A9", "W4A8 "):
        with pytest.raises(InputError, match="W4A8 and the like"):
            parse_bits(wrong)


def test_runs_are_methods_times_bits_times_seeds(small):
    experiment = load_experiment(small, seeds=[3, 5], runs=[RTN, {"method": "tfmq-dm", "bits": ["W4A6", "W8A8"]}])
    runs = plan_runs(experiment)
    assert [run.name for run in runs] == [
        *("rtn W4A8 seed 3", "tfmq-dm W4A6 seed 3", "tfmq-dm W8A8 seed 3"),
        *("rtn W4A8 seed 5", "tfmq-dm W4A6 seed 5", "tfmq-dm W8A8 seed 5"),
    ]
    assert (runs[1].recipe.weights.bits, runs[1].recipe.activations.bits, runs[1].recipe.seed) == (4, 6, 3)
    assert {run.recipe.calibration.steps for run in runs} == {4}


def test_recipe_entries_are_merged_into_the_methods(small):
    spec = {**RTN, "label": "mine", "recipe": {"weights": {"range": "mse"}, "calibration": {"rows_per_step": 3}}}
    experiment = load_experiment(small, runs=[spec], recipe={"attention": {"softmax_bits": 16}})
    recipe = plan_runs(experiment)[0].recipe
    assert (recipe.weights.range, recipe.weights.rounding, recipe.weights.bits) == ("mse", "nearest", 4)
    assert (recipe.calibration.rows_per_step, recipe.attention.softmax_bits) == (3, 16)
    assert plan_runs(experiment)[0].label == "mine"


def test_an_experiment_extends_others(tmp_path, small):
    write(tmp_path / "more.yaml", "evaluation: {images: 3, noise_samples: 2}\nseeds: [7]")
    both = write(tmp_path / "both.yaml", "extends: [small, more.yaml]\nevaluation: {images: 5}\ntitle: both")
    found = load_experiment(both)
    assert (found.name, found.title, found.steps, found.seeds) == ("both", "both", 4, (7,))
    assert (found.evaluation.images, found.evaluation.noise_samples) == (5, 2)
    own = load_experiment(write(tmp_path / "own.yaml", "extends: fashion32\nsteps: 3"))
    assert own.steps == 3 and own.runs == load_experiment("fashion32").runs


def test_files_may_lie_beside_the_experiment(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "there"
    folder.mkdir()
    (folder / "mine.py").touch()
    write(folder / "words.txt", "a\n")
    text = "model: mine.py:make\nconditioning: {prompts: words.txt}\nruns: [{method: rtn, bits: [W4A8]}]"
    found = load_experiment(write(folder / "e.yaml", text))
    assert found.model == f"{folder}/mine.py:make" and found.conditioning.prompts == f"{folder}/words.txt"


WRONG = {
    "unknown key": ({"stepz": 3}, "stepz = 3: unknown entry 'stepz': did you mean steps"),
    "unknown key inside": (
        {"evaluation": {"image": 3}},
        "evaluation.image = 3: unknown entry 'image': did you mean images",
    ),
    "unknown key of a run": (
        {"runs": [{"method": "rtn", "bitz": ["W4A8"]}]},
        "runs.0.bitz = ['W4A8']: unknown entry 'bitz': did you mean bits",
    ),
    "a name that leaves its folder": ({"name": "../x"}, "name = '../x': '../x' is no plain name"),
    "no runs": ({"runs": []}, "runs"),
    "bits": ({"runs": [{"method": "rtn", "bits": ["W4A9"]}]}, "runs.0.bits.0 = 'W4A9'"),
    "no bits": ({"runs": [{"method": "rtn"}]}, "runs.0.bits: Field required"),
    "sampler": ({"sampler": "dimm"}, "did you mean ddim"),
    "features": ({"evaluation": {"distribution": {"features": "cnn"}}}, "unknown feature extractor 'cnn'"),
    "eta": ({"eta": 2}, "eta"),
    "noise samples": ({"evaluation": {"images": 2}}, "noise_samples 8 is out of range: 1 to 2"),
    "evaluation's seed": ({"seeds": [1000]}, "seed 1000 is one of calibration and of evaluation"),
    "seeds": ({"seeds": [1, 1]}, "repeat"),
    "guidance": ({"conditioning": {"guidance": -1}}, "guidance"),
    "classes": ({"conditioning": {"classes": [-1]}}, "classes"),
    "target": ({"targets": [{"method": "x", "metrics": {"FID": "low"}}]}, "targets.0.metrics.FID"),
}


@pytest.mark.parametrize(("entries", "said"), WRONG.values(), ids=WRONG)
def test_wrong_entries_are_named_in_one_line(small, entries, said):
    with pytest.raises(InputError) as caught:
        load_experiment(small, **entries)
    assert said in str(caught.value) and "small.yaml" in str(caught.value) and "\n" not in str(caught.value)


WRONG_RUNS = {
    "method": ([{**RTN, "method": "tfmq"}], "did you mean tfmq-dm"),
    "reading": ([{**RTN, "reading": "released"}], "rtn has no reading 'released'"),
    "effort": ([{**RTN, "effort": "slow"}], "effort"),
    "recipe entry": ([{**RTN, "recipe": {"wieghts": {}}}], "did you mean weights?"),
    "rounding": ([{**RTN, "recipe": {"weights": {"rounding": "nearst"}}}], "did you mean nearest"),
    "bits in the recipe": ([{**RTN, "recipe": {"weights": {"bits": 8}}}], "weights.bits are given by the run's bits"),
    "seed in the recipe": ([{**RTN, "recipe": {"seed": 3}}], "seed is an entry of the run"),
    "another recording": ([{**RTN, "recipe": {"calibration": {"samples": 9}}}], "calibration.samples belongs"),
    "same names": ([RTN, {**RTN, "recipe": {"weights": {"range": "mse"}}}], "two runs are called 'rtn' at W4A8"),
    "same runs": ([RTN, {**RTN, "label": "again"}], "'rtn W4A8 seed 0' and 'again W4A8 seed 0' are the same run"),
}


@pytest.mark.parametrize(("runs", "said"), WRONG_RUNS.values(), ids=WRONG_RUNS)
def test_wrong_runs_are_named_in_one_line(small, runs, said):
    with pytest.raises(InputError) as caught:
        plan_runs(load_experiment(small, runs=runs))
    assert said in str(caught.value) and "\n" not in str(caught.value)


def test_wrong_files(tmp_path):
    for text, said in (("- 1", "no mapping"), ("a: [", "cannot be read"), ("extends: nothing", "unknown experiment")):
        with pytest.raises(InputError, match=said) as caught:
            load_experiment(write(tmp_path / "wrong.yaml", text))
        assert "\n" not in str(caught.value)
    with pytest.raises(InputError, match="extends itself"):
        load_experiment(write(tmp_path / "self.yaml", "extends: self.yaml"))
    with pytest.raises(InputError, match="did you mean fashion32"):
        load_experiment("fashion3")
    with pytest.raises(InputError, match=r"no experiment file 'none\.yaml'"):
        load_experiment("none.yaml")


def test_the_papers_experiments_are_built_in():
    papers = {"cifar10-ddim", "lsun-bedrooms", "lsun-churches", "celebahq", "ffhq", "imagenet", "stable-diffusion-coco"}
    variants = {"celebahq-plms", "lsun-churches-dpm", "lsun-churches-tdq", "imagenet-tdq"}
    assert set(built_in()) >= papers | variants | {"fashion32"}


@pytest.mark.parametrize("name", built_in())
def test_every_built_in_experiment_is_valid(name):
    experiment = load_experiment(name)
    assert plan_runs(experiment) and experiment.title
    assert experiment.model in BUNDLED or (experiment.targets and experiment.source)


def settings(name: str) -> tuple:
    found = load_experiment(name)
    return found.sampler, found.steps, found.eta, found.calibration.samples, found.calibration.rows


def published(name: str, method: str, bits: str | None) -> dict[str, float]:
    return next(t.metrics for t in load_experiment(name).targets if (t.method, t.bits) == (method, bits))


def test_settings_and_published_numbers_are_those_of_the_papers():
    """Spot checks against TFMQ-DM's tables and appendix."""
    assert settings("lsun-bedrooms") == ("ddim", 200, 1.0, 256, 5120)
    assert settings("lsun-churches") == ("ddim", 500, 0.0, 256, 4096)
    assert settings("stable-diffusion-coco") == ("plms", 50, 0.0, 128, 12800)
    assert settings("imagenet") == ("ddim", 20, 0.0, 256, 10240)
    assert load_experiment("imagenet").conditioning.guidance == 3.0
    assert load_experiment("stable-diffusion-coco").conditioning.guidance == 7.5
    assert published("lsun-bedrooms", "tfmq-dm", "W4A8") == {"FID": 3.68, "sFID": 7.65}
    assert published("lsun-bedrooms", "brecq", "W8A8") == {"FID": 7.51, "sFID": 12.54}
    assert published("ffhq", "full precision", None) == {"FID": 9.36, "sFID": 8.67}
    assert published("imagenet", "ptqd", "W8A8") == {"IS": 153.92, "FID": 11.94, "sFID": 8.03}
    assert published("celebahq-plms", "tfmq-dm", "W4A8") == {"FID": 8.68, "sFID": 10.29}
    assert published("lsun-churches-dpm", "q-diffusion", "W4A8") == {"FID": 7.80, "sFID": 23.24}
    assert published("lsun-churches-tdq", "tdq-thin", "W4A6") == {"FID": 55.27}
    assert published("imagenet-tdq", "s-20", "W4A6") == {"FID": 17.38}


def test_committed_results_are_those_of_the_experiments_as_they_are():
    experiment, model = load_experiment("fashion32-seeds"), resolve("fashion32")
    model_hash = state_hash(model.denoiser.module)
    results = (RESULTS / "fashion32-seeds" / "results.jsonl").read_text().splitlines()
    runs = {run_identity(run, experiment, model_hash) for run in plan_runs(experiment)}
    # A bench that is begun again finds what an earlier version of this package did.
    assert {json.loads(line)["id"] for line in results} == runs
