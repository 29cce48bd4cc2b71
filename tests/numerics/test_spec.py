"""The closed vocabulary of quantizers: what is valid, and which valid one a refusal names."""

import itertools

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

VALID = [
    QuantSpec("int", 4, False, PerGroup(32)),
    QuantSpec("int", 8, True, PerChannel()),
    QuantSpec("int", 8, False, PerTensor()),
    QuantSpec("int", 8, False, PerTensor(), PerStep()),
    QuantSpec("int", 8, False, PerTensor(), StepGroups(4)),
    QuantSpec("int", 16, False, PerTensor(), Generated("thin")),
    QuantSpec("int", 8, False, PerToken(), PerStep()),
    QuantSpec("int", 8, True, PerToken(), dynamic=True),
]


def test_equal_specs_are_one_key():
    assert len({QuantSpec("int", 4, False, PerGroup(32)), VALID[0]}) == 1
    assert QuantSpec("int", 4, False, PerGroup(64)) != VALID[0]


@pytest.mark.parametrize(
    ("fields", "nearest"),
    [
        (("float", 8, True, PerTensor()), "int8 symmetric, static scales per tensor"),
        (("int", 9, False, PerTensor()), "int8 asymmetric, static scales per tensor"),
        (("int", 1, False, PerChannel()), "int2 asymmetric, static scales per channel"),
        (("int", 4, False, PerGroup(100)), "int4 asymmetric, static scales per group of 128"),
        (("int", 4, False, PerGroup(8)), "int4 asymmetric, static scales per group of 16"),
        (("int", 4, False, PerGroup(32), PerStep()), "int4 asymmetric, static scales per group of 32"),
        (("int", 4, False, PerChannel(), Constant(), True), "int4 asymmetric, static scales per channel"),
        (("int", 8, False, PerTensor(), PerStep(), True), "int8 asymmetric, dynamic scales per tensor"),
        (("int", 8, False, PerToken(), StepGroups(3)), "int8 asymmetric, static scales per token, per step"),
        (("int", 8, False, PerTensor(), StepGroups(0)), "int8 asymmetric, static scales per tensor, 1 groups of steps"),
        (
            ("int", 8, False, PerTensor(), Generated("thn")),
            "int8 asymmetric, static scales per tensor, generated (thin)",
        ),
        (("float", 4, False, PerGroup(20), PerStep(), True), "int4 asymmetric, static scales per group of 16"),
    ],
)
def test_a_refusal_names_the_nearest_valid_spec(fields, nearest):
    with pytest.raises(InputError) as refusal:
        QuantSpec(*fields)
    assert str(refusal.value).endswith(f"; the nearest that is: {nearest}")


def test_the_nearest_is_always_valid():
    granularities = [PerTensor(), PerToken(), PerChannel(), *map(PerGroup, (0, 1, 16, 32, 64, 128, 1000))]
    schedules = [Constant(), PerStep(), StepGroups(0), StepGroups(1), *map(Generated, ("tdq", "thin", ""))]
    widths = (0, 2, 3, 4, 5, 6, 7, 8, 12, 16, 32)
    valid, refusals = set(), []
    for fields in itertools.product(("int", "float"), widths, (False,), granularities, schedules, (False, True)):
        try:
            valid.add(str(QuantSpec(*fields)))
        except InputError as error:
            refusals.append(str(error).rpartition("the nearest that is: ")[2])
    assert len(valid) == 8 * (1 + 4 + 6 + 3), "bits x (channels, groups, tensors by step and dynamic, tokens likewise)"
    assert len(refusals) > 2000
    assert set(refusals) <= valid
