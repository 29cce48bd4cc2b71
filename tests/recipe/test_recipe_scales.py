"""Recipes that say along which axes scales are shared: what they mean, what they refuse, how they are written."""

import pytest

from tempoquant.errors import InputError
from tempoquant.numerics import (
    Constant,
    Generated,
    PerChannel,
    PerGroup,
    PerStep,
    PerTensor,
    PerToken,
    QuantSpec,
    StepGroups,
)
from tempoquant.recipe import Recipe


def recipe(**entries):
    return Recipe.parse({"method": "rtn", **entries})


def test_defaults_are_not_written():
    written = recipe().model_dump(mode="json")
    assert "group_size" not in written["weights"]
    assert not {"granularity", "dynamic"} & written["activations"].keys()


@pytest.mark.parametrize(
    "entries",
    [
        {"weights": {"group_size": 32}},
        {"activations": {"granularity": "per-token"}},
        {"activations": {"granularity": "per-token", "steps": "per-step"}},
        {"activations": {"granularity": "per-token", "dynamic": True, "symmetric": True}},
        {"activations": {"dynamic": True}},
    ],
)
def test_what_is_said_is_written_and_read_again(entries):
    said = recipe(**entries)
    assert Recipe.parse(said.model_dump(mode="json")) == said
    part, values = next(iter(entries.items()))
    assert said.model_dump(mode="json")[part].items() >= values.items()


def test_weight_specs():
    assert recipe().weights.spec() == QuantSpec("int", 4, False, PerChannel())
    assert recipe(weights={"bits": 4, "group_size": 64}).weights.spec(8) == QuantSpec("int", 8, True, PerGroup(64))
    assert recipe(weights={"symmetric": True}).weights.spec(4).symmetric


@pytest.mark.parametrize(
    ("entries", "schedule"),
    [
        ({}, Constant()),
        ({"steps": "per-step"}, PerStep()),
        ({"steps": "groups", "groups": 3}, StepGroups(3)),
        ({"steps": "generator", "generator": "thin", "learn": True}, Generated("thin")),
    ],
)
def test_activation_specs_by_step(entries, schedule):
    assert recipe(activations=entries).activations.spec(6) == QuantSpec("int", 6, False, PerTensor(), schedule)


def test_activation_specs_by_token():
    activations = recipe(activations={"granularity": "per-token", "dynamic": True}).activations
    assert activations.spec() == QuantSpec("int", 8, False, PerToken(), Constant(), True)
    assert activations.spec(tokens=False) == QuantSpec("int", 8, False, PerTensor(), Constant(), True)


@pytest.mark.parametrize(
    ("entries", "message"),
    [
        (
            {"weights": {"group_size": 48}},
            "weights.group_size = 48: groups are of 16, 32, 64, 128 input channels; the nearest is 32",
        ),
        ({"weights": {"group_size": 32, "bits": 32}}, "group_size = 32 needs quantized weights"),
        ({"activations": {"dynamic": True, "bits": 32}}, "needs quantized activations"),
        ({"activations": {"dynamic": True, "steps": "per-step"}}, "the nearest that is: int8 asymmetric, dynamic"),
        ({"activations": {"dynamic": True, "learn": True}}, "leave out learn"),
        ({"activations": {"dynamic": True, "range": "mse"}}, "range = 'mse' would be void"),
        ({"activations": {"granularity": "per-token", "learn": True}}, "leave out learn"),
        ({"activations": {"granularity": "per-token", "range": "mse"}}, "range = 'mse' would be void"),
        ({"activations": {"granularity": "per-token", "steps": "groups"}}, "the nearest that is: int8 asymmetric"),
        ({"activations": {"granularity": "per-row"}}, "'per-tensor' or 'per-token'"),
        ({"activations": {"dynamic": True}, "training": {}}, "training learns one static scale a tensor"),
        ({"activations": {"dynamic": True}, "correction": {"step_bits": [6, 8]}}, "step-wise widths need one static"),
    ],
)
def test_void_combinations_are_refused(entries, message):
    with pytest.raises(InputError) as refusal:
        recipe(**entries)
    assert message in str(refusal.value)
    assert len(str(refusal.value).splitlines()) == 1
