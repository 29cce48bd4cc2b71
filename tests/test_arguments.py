"""Names of a call's arguments, nested ones by dotted names, and comparisons of what they hold."""

import pytest
import torch

from tempoquant.arguments import (
    argument_at,
    equal,
    flattened,
    named_arguments,
    nested,
    perturbed,
    tensor_arguments,
)

TREE = {"a": 1, "b": {"c": None, "d": {"e": torch.ones(2)}}, "f": {}}


def test_arguments_get_the_names_of_the_signature():
    def call(sample, timestep, labels=None, **others): ...

    assert named_arguments(call, (1,), {"timestep": 2, "mask": 3}) == {"sample": 1, "timestep": 2, "mask": 3}
    assert named_arguments(call, (1, 2, 4), {}) == {"sample": 1, "timestep": 2, "labels": 4}
    with pytest.raises(TypeError):
        named_arguments(call, (1,), {"sample": 2})


def test_dotted_names_and_back():
    flat = flattened(TREE)
    assert list(flat) == ["a", "b.c", "b.d.e"]
    assert nested(flat) == {"a": 1, "b": {"c": None, "d": {"e": flat["b.d.e"]}}}
    assert list(tensor_arguments(TREE)) == ["b.d.e"]
    assert argument_at(TREE, "b.d.e") is flat["b.d.e"]
    assert argument_at(TREE, "b.x.e") is None and argument_at(TREE, "a.e") is None


@pytest.mark.parametrize(
    ("a", "b", "same"),
    [
        (torch.ones(2), torch.ones(2), True),
        (torch.ones(2), torch.ones(2, dtype=torch.float64), False),
        (torch.ones(2), torch.ones(1, 2), False),
        (torch.tensor([1.0, torch.nan]), torch.tensor([1.0, torch.nan]), False),
        ({"x": [torch.ones(2), "text"]}, {"x": [torch.ones(2), "text"]}, True),
        ({"x": [torch.ones(2), "text"]}, {"x": [torch.ones(2), "other"]}, False),
        ([torch.ones(2)], [torch.ones(2), torch.ones(2)], False),
        (torch.ones(1), 1.0, False),
    ],
)
def test_equality_is_of_every_element_and_of_the_type(a, b, same):
    assert equal(a, b) is same


@pytest.mark.parametrize("x", [torch.tensor([-2.5, 0.0, 1.0]), torch.tensor([0, 1, 7]), torch.tensor([True, False])])
def test_perturbed_values_differ_everywhere(x):
    other = perturbed(x)
    assert other.dtype == x.dtype and bool((other != x).all())
    assert x.dtype != torch.int64 or other.tolist() == [1, 0, 6]
