"""The stages that a recipe has run, in order; and stages of a user's own, each in one file outside of the package."""

import json
from contextlib import contextmanager

import pytest
import torch

import tempoquant
from tempoquant.errors import InputError
from tempoquant.extension import STAGES
from tempoquant.job import stages_of
from tempoquant.methods import load_plugins, method_recipe
from tempoquant.recipe import Recipe
from tempoquant.stages import JobState, Stage, TrainingSettings, stage
from tempoquant.training import Processes, Rhythm
from tempoquant.training_job import training_stages_of
from tiny import bare_denoiser, small_recipe

ALWAYS = ["read", "record", "transform", "temporal features", "units", "activations"]

PLUGIN = '''
"""Weight scales that are 1 % larger, in a stage; and a method that has it run."""

import torch

from tempoquant.methods import find_method, method
from tempoquant.stages import Stage, stage


@stage(after="units")
class WiderScales(Stage):
    name = "wider scales"
    needs = ("weights",)
    keeps = "stages/wider scales"

    def run(self, state):
        cache = state.cache(self.keeps)
        for name, layer in state.layers.items():
            kept = cache.load(name)
            if kept is None:
                kept = {"scale": layer.weight_scale * 1.01}
                cache.save(name, kept)
                print("made", name)
            layer.weight_scale.copy_(kept["scale"])


@method("wide-rtn", paper="mine", summary="rounding to nearest, scales 1 % larger")
def wide_rtn(reading, activations):
    return {**find_method("rtn").entries(reading, activations), "stages": ["wider scales"]}
'''


@pytest.fixture
def plugin(tmp_path, fresh_registries):
    """The plugin's file, loaded."""
    file = tmp_path / "wider.py"
    file.write_text(PLUGIN)
    load_plugins([file])
    return file


def names(recipe: Recipe) -> list[str]:
    return [found.name for found in stages_of(recipe)]


@pytest.mark.parametrize(
    ("method", "changes", "more"),
    [
        ("rtn", {}, []),
        ("tfmq-dm", {}, []),
        ("tdq-ptq", {}, ["activation steps"]),
        ("tfmq-cache", {}, ["cached features"]),
        ("ptqd", {}, ["correction"]),
        ("tempo", {"tuning": {"iterations": 2}}, ["cached features", "tuning"]),
    ],
)
def test_a_recipe_decides_the_stages(method, changes, more):
    found = [name for name in names(method_recipe(method, **changes)) if name not in ALWAYS]
    learned = ["activation steps"] if method_recipe(method).activations.learn and "activation steps" not in more else []
    assert found == [*learned, *more]
    assert names(method_recipe(method, **changes))[: len(ALWAYS)] == ALWAYS


def test_a_stage_of_ones_own_runs_where_it_belongs(plugin):
    assert names(method_recipe("wide-rtn")) == [*ALWAYS[:5], "wider scales", "activations"]
    plain = tempoquant.quantize(bare_denoiser(), small_recipe("rtn"))
    wide = tempoquant.quantize(bare_denoiser(), small_recipe("wide-rtn"))
    asked = tempoquant.quantize(bare_denoiser(), small_recipe("rtn", stages=["wider scales"]))
    for name in ("first", "middle", "last", "time_in", "time_out"):
        scales = [getattr(made.denoiser.module, name).weight_scale for made in (plain, wide, asked)]
        assert torch.equal(scales[0] * 1.01, scales[1]) and torch.equal(scales[1], scales[2])
    assert list(wide.facts["timings"]) == [*ALWAYS[:5], "wider scales", "activations"]


def test_it_is_resumed_saved_and_loaded_without_its_plugin(plugin, tmp_path, capsys):
    class Ended(BaseException):
        pass

    class EndsAtRanges:
        @contextmanager
        def stage(self, name, total):
            if name == "activation ranges":
                raise Ended
            yield lambda parts: None

    recipe, out = small_recipe("wide-rtn"), tmp_path / "out"
    with pytest.raises(Ended):
        tempoquant.quantize(bare_denoiser(), recipe, out=out, progress=EndsAtRanges())
    assert capsys.readouterr().out.count("made") == 5
    made = tempoquant.quantize(bare_denoiser(), recipe, out=out)
    assert "made" not in capsys.readouterr().out and not out.with_name("out.partial").exists()
    images = made.generate(2, steps=4, seed=3)
    assert json.loads((out / "denoiser" / "config.json").read_text())["quantization_config"]["recipe"]["stages"]
    STAGES.clear()
    loaded = tempoquant.load(out, denoiser=bare_denoiser())
    assert loaded.recipe.stages == ("wider scales",)
    assert torch.equal(loaded.generate(2, steps=4, seed=3), images)
    with pytest.raises(InputError, match="unknown stage 'wider scales'"):
        Recipe.parse(loaded.recipe.model_dump())


def test_weights_are_not_shared_with_a_recipe_of_other_stages(plugin, tmp_path):
    for first, second in (("rtn", "wide-rtn"), ("wide-rtn", "rtn")):
        units = tmp_path / f"units of {first}"
        shared = {"units": units, "recording": tmp_path / "recording"}
        tempoquant.quantize(bare_denoiser(), small_recipe(first), **shared)
        with pytest.raises(InputError, match="units made with another stages"):
            tempoquant.quantize(bare_denoiser(), small_recipe(second), **shared)


def test_a_recipe_without_such_stages_does_not_mention_them():
    assert "stages" not in small_recipe().model_dump(mode="json")


def own(label: str, follows: str, run=lambda self, state: None, **attributes) -> None:
    """Register a stage of a user's own."""
    found = {"name": label, "run": run, "__module__": "mine", **attributes}
    stage(after=follows)(type("Mine", (Stage,), found))


def test_stages_that_follow_one_another_keep_the_recipes_order(fresh_registries):
    own("a", "units")
    own("b", "units")
    own("c", "a")
    found = names(small_recipe("rtn", stages=["a", "b", "c"]))
    assert found == [*ALWAYS[:5], "a", "c", "b", "activations"]
    own("late", "tuning")
    assert names(small_recipe("rtn", stages=["late"])) == [*ALWAYS, "late"]


def fails(self: Stage, state: JobState) -> None:
    raise ZeroDivisionError("by zero")


def test_what_is_wrong_with_a_stage_is_said_in_one_line(fresh_registries):
    own("twice", "units")
    with pytest.raises(InputError, match="stage 'twice' exists already"):
        own("twice", "units")
    own("units", "record")
    own("lost", "unit")
    own("early", "read", needs=("store",))
    own("failing", "read", run=fails)
    for name, message in {
        "units": "stage 'units' exists already: choose another name",
        "lost": "unknown stage 'unit': did you mean units",
        "early": "stage 'early' needs 'store', which no stage before it gives",
        "failing": "stage 'failing' failed: ZeroDivisionError: by zero",
    }.items():
        with pytest.raises(InputError) as caught:
            tempoquant.quantize(bare_denoiser(), small_recipe("rtn", stages=[name]))
        assert message in str(caught.value) and "\n" not in str(caught.value)
    with pytest.raises(InputError, match="recipe: stages"):
        Recipe.parse({"method": "mine", "stages": ["none such"]})


def test_a_stage_without_run_is_refused(fresh_registries):
    own("idle", "read", run=Stage.run)
    with pytest.raises(InputError, match="stage 'idle' failed: NotImplementedError: Mine must define run"):
        tempoquant.quantize(bare_denoiser(), small_recipe("rtn", stages=["idle"]))


def test_training_is_a_list_of_stages_that_ones_own_may_join(fresh_registries):
    own("own", "transform")
    settings = TrainingSettings(None, "its own trajectories", Rhythm(), Processes())
    plain = [found.name for found in training_stages_of(small_recipe("tdq"), settings)]
    assert plain == ["read", "record", "transform", "activations", "training"]
    joined = [found.name for found in training_stages_of(small_recipe("tdq", stages=["own"]), settings)]
    assert joined == ["read", "record", "transform", "own", "activations", "training"]
