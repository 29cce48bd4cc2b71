import json

import pytest

from tempoquant.errors import InputError
from tempoquant.methods import METHODS, method_recipe
from tempoquant.recipe import WIDTHS, Override, Recipe

EVERY = [(m.name, reading) for m in METHODS.values() for reading in m.readings]


@pytest.mark.parametrize(("name", "reading"), EVERY)
def test_every_method_has_a_recipe_for_all_bits(name, reading):
    for weights in WIDTHS:
        for activations in WIDTHS:
            recipe = method_recipe(name, weights=weights, activations=activations, reading=reading)
            assert (recipe.method, recipe.reading) == (name, reading)
            assert (recipe.weights.bits, recipe.activations.bits) == (weights, activations)
            assert recipe.name.startswith(f"{name} W{weights}A{activations}")
            # Some layer, of no role, gets what was asked for.
            assert recipe.bits_of("mid.conv1") == (weights, activations)


@pytest.mark.parametrize(("name", "reading"), EVERY)
def test_recipes_survive_yaml_json_and_python(name, reading, tmp_path):
    recipe = method_recipe(name, weights=3, activations=6, reading=reading, effort="balanced", seed=5)
    recipe.to_file(tmp_path / "recipe.yaml")
    assert Recipe.from_file(tmp_path / "recipe.yaml") == recipe
    (tmp_path / "recipe.json").write_text(json.dumps(recipe.model_dump(mode="json")))
    assert Recipe.from_file(tmp_path / "recipe.json") == recipe
    assert Recipe.parse(recipe.model_dump()) == recipe


def test_names_show_corrections():
    assert method_recipe("tfmq-dm").name == "tfmq-dm W4A8"
    assert method_recipe("ptqd", activations=6).name == "ptqd W4A6 + correlated correction"
    corrected = {**method_recipe("tfmq-dm").model_dump(), "correction": {"kind": "mmse"}}
    assert Recipe.parse(corrected).name == "tfmq-dm W4A8 + mmse correction"
    stepped = corrected | {"correction": {"kind": "none", "step_bits": [4, 8]}}
    assert Recipe.parse(stepped).name == "tfmq-dm W4A8 + step-wise bits"


def test_what_the_methods_say():
    paper, released = method_recipe("tfmq-dm"), method_recipe("tfmq-dm", reading="released")
    assert (paper.temporal.reconstruction, paper.temporal.calibration) == ("tiar", "finite-set")
    assert (paper.activations.steps, released.activations.steps) == ("constant", "per-step")
    assert paper.attention.quantize and not released.attention.quantize
    assert released.bits_of("conv_in", frozenset({"@first"})) == (32, 32)
    assert released.bits_of("x", frozenset({"@shared[1]"})) == (4, 32)
    assert method_recipe("rtn").weights.rounding == "nearest"
    ptqd, scripts = method_recipe("ptqd"), method_recipe("ptqd", reading="released")
    assert (ptqd.temporal.reconstruction, ptqd.temporal.calibration) == ("block", "constant")
    assert ptqd.correction.kind == scripts.correction.kind == "correlated" and ptqd.correction.reduces_noise
    assert method_recipe("tfmq-dm").correction is method_recipe("rtn").correction is None
    assert ptqd.bits_of("conv_in", frozenset({"@first"})) == (4, 8)
    assert ptqd.with_activation_bits(4).bits_of("conv_in", frozenset({"@first"})) == (4, 8)
    assert scripts.bits_of("x", frozenset({"@shared[0]"})) == (8, 8) and not scripts.attention.quantize
    assert scripts.bits_of("x", frozenset({"@shortcut"})) == (32, 32)
    ends = method_recipe("rtn", activations=6)
    assert ends.bits_of("conv_in", frozenset({"@first"})) == (4, 8)
    assert method_recipe("rtn", activations=32).bits_of("conv_in", frozenset({"@first"})) == (4, 32)


def test_changes_are_merged_and_win():
    recipe = method_recipe("tfmq-dm", calibration={"samples": 7}, temporal={"calibration": "constant"})
    assert (recipe.calibration.samples, recipe.calibration.steps) == (7, 50)
    assert (recipe.temporal.reconstruction, recipe.temporal.calibration) == ("tiar", "constant")


WRONG = {
    "unknown key": ({"wieghts": {}}, "wieghts"),
    "unknown key inside": ({"weights": {"bit": 4}}, "weights.bit"),
    "unknown key in a policy": ({"policy": [{"match": "*", "bits": 4}]}, "policy.0.bits"),
    "bits": ({"weights": {"bits": 1}}, "bits = 1 is not supported"),
    "bits in a policy": ({"policy": [{"match": "*", "weight_bits": 12}]}, "bits = 12"),
    "bits as words": ({"activations": {"bits": "many"}}, "activations.bits"),
    "rounding": ({"weights": {"rounding": "up"}}, "weights.rounding"),
    "effort": ({"effort": "none"}, "effort"),
    "version": ({"version": 2}, "version"),
    "samples": ({"calibration": {"samples": 0}}, "calibration.samples"),
    "eta": ({"calibration": {"eta": 1.5}}, "calibration.eta"),
    "role": ({"policy": [{"match": "@firts"}]}, "@first"),
    "no method": ({"method": None}, "method"),
}


@pytest.mark.parametrize(("entries", "named"), WRONG.values(), ids=WRONG)
def test_wrong_entries_are_named_in_one_line(entries, named):
    with pytest.raises(InputError) as caught:
        Recipe.parse({"method": "rtn", **entries})
    assert named in str(caught.value) and "\n" not in str(caught.value)


def test_unknown_methods_and_readings():
    with pytest.raises(InputError, match=r"did you mean tfmq-dm.*\? Valid: .*rtn"):
        method_recipe("tfmqdm")
    with pytest.raises(InputError, match="rtn has no reading 'released': valid are paper"):
        method_recipe("rtn", reading="released")
    with pytest.raises(InputError, match="wieghts"):
        method_recipe("rtn", wieghts=4)


def test_the_last_matching_override_wins():
    recipe = method_recipe(
        "rtn",
        policy=[
            {"match": "down.*", "weight_bits": 8},
            {"match": "down.1.*", "activation_bits": 16},
            {"match": "@last", "weight_bits": 32, "activation_bits": 32},
            {"match": "down.?.conv", "weight_bits": 6},
        ],
    )
    assert recipe.bits_of("up.0.conv") == (4, 8)
    assert recipe.bits_of("down.0.linear") == (8, 8)
    assert recipe.bits_of("down.1.linear") == (8, 16)
    assert recipe.bits_of("down.1.conv") == (6, 16)
    assert recipe.bits_of("down.1.conv", frozenset({"@last"})) == (6, 32)


def test_roles_are_not_patterns():
    assert not Override(match="@first").matches("@first", frozenset())
    assert Override(match="@first").matches("conv_in", frozenset({"@first"}))
    assert not Override(match="conv_*").matches("mid.conv_in", frozenset({"conv_*"}))


def test_symmetry_follows_the_bits_unless_said():
    assert [method_recipe("rtn").symmetric(bits) for bits in (4, 7, 8, 16)] == [False, False, True, True]
    said = method_recipe("rtn", weights=4, calibration={}).model_copy(update={})
    assert said.symmetric(4) is False
    data = said.model_dump()
    data["weights"]["symmetric"] = True
    assert Recipe.parse(data).symmetric(4)


def test_recipes_cannot_be_changed():
    with pytest.raises(ValueError, match="frozen"):
        method_recipe("rtn").seed = 3
