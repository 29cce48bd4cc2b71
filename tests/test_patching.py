"""Functions in the place of an object's own: undone in any order, copied, called by threads, captured in graphs."""

import copy
import inspect
import itertools
import threading

import pytest
import torch
from torch import nn

from tempoquant.patching import (
    CAPTURE,
    GraphRole,
    Patched,
    graph_role,
    in_graph,
    own_function,
    remove_patches,
    substitute,
    surround,
)


def plus(number):
    return lambda forward, x: forward(x) + number


@pytest.mark.parametrize("order", itertools.permutations(range(3)))
def test_functions_around_forward_leave_in_any_order(order):
    module = nn.Identity()
    signature, undo = inspect.signature(module.forward), [surround(module, plus(10**i)) for i in range(3)]
    assert module(0) == 111 and inspect.signature(module.forward) == signature
    left = {0, 1, 2}
    for i in order:
        undo[i]()
        left -= {i}
        assert module(0) == sum(10**j for j in left)
    assert "forward" not in vars(module)


def test_the_innermost_function_is_called_last_and_an_own_forward_comes_back():
    module, calls = nn.Identity(), []
    module.forward = own = lambda x: calls.append("own") or x
    last = surround(module, lambda forward, x: calls.append("first entered") or forward(x))
    inner = surround(module, lambda forward, x: calls.append("inner") or forward(x), innermost=True)
    assert module(1) == 1 and calls == ["first entered", "inner", "own"]
    last()
    inner()
    assert module.forward is own


def test_a_copy_of_a_surrounded_module_is_its_own():
    module = nn.Linear(2, 2)
    undo = surround(module, plus(1))
    twin = copy.deepcopy(module)
    with torch.no_grad():
        twin.weight.zero_()
        twin.bias.zero_()
        assert not twin(torch.ones(1, 2)).any() and module(torch.ones(1, 2)).any()
    undo()


class Scale:
    """Multiplies by the weight of a module of its own: a copy of the module has a copy of it."""

    graph_role = GraphRole.INLINE

    def __init__(self, module):
        self.module = module

    def __call__(self, forward, x):
        return forward(x) * self.module.weight


class Weighted(nn.Module):
    def __init__(self, weight):
        super().__init__()
        self.weight = nn.Parameter(torch.tensor(weight))

    def forward(self, x):
        return x + 1


def test_a_lasting_patch_is_copied_with_its_module_and_taken_off_each_alone():
    module = Weighted(3.0)
    undo = surround(module, Scale(module), lasting=True)
    temporary = surround(module, plus(100))
    twin = copy.deepcopy(module)
    twin.weight.data.fill_(5.0)
    assert float(module(1.0)) == 2 * 3 + 100 and float(twin(1.0)) == 2 * 5, "what is temporary is not copied"
    remove_patches(twin, Scale)
    assert "forward" not in vars(twin) and float(twin(1.0)) == 2 and float(module(1.0)) == 106
    remove_patches(twin, Scale)
    undo()
    assert float(module(1.0)) == 102
    temporary()
    assert "forward" not in vars(module)


def test_lasting_patches_are_below_temporary_ones_whenever_they_come():
    module = Weighted(2.0)
    temporary = surround(module, plus(10), innermost=True)
    undo = surround(module, Scale(module), lasting=True)
    assert float(module(1.0)) == 2 * 2 + 10
    temporary()
    undo()
    assert own_function(module) is None


@pytest.mark.parametrize("order", itertools.permutations(range(3)))
def test_substitutes_and_what_surrounds_them_are_undone_in_any_order(order):
    layer = nn.Identity()
    layer.kernel = first = lambda x: x
    undo = [
        substitute(layer, lambda x: 2 * x, "kernel"),
        surround(layer, lambda kernel, x: kernel(x) + 1, "kernel"),
        substitute(layer, lambda x: 5 * x, "kernel"),
    ]
    assert layer.kernel(3) == 15
    undo[2]()
    assert layer.kernel(3) == 7
    undo[2]()
    undo[2] = substitute(layer, lambda x: 5 * x, "kernel")
    for i in order:
        undo[i]()
    assert layer.kernel is first


def test_what_was_set_over_a_patch_stays():
    module = nn.Identity()
    undo = surround(module, plus(1))
    patched = module.forward
    module.forward = later = lambda x: patched(x) * 10
    undo()
    assert module.forward is later and module(2) == 20


def test_a_call_under_way_is_left_alone():
    module, inside, undone, found = nn.Identity(), threading.Event(), threading.Event(), []

    def slow(forward, x):
        inside.set()
        undone.wait(10)
        return forward(x) + 1

    undo = surround(module, slow)
    thread = threading.Thread(target=lambda: found.append(module(1)))
    thread.start()
    assert inside.wait(10)
    undo()
    assert module(1) == 1
    undone.set()
    thread.join()
    assert found == [2]


def test_a_function_with_an_undeclared_one_below_or_above_declares_no_role():
    module = nn.Identity()
    assert own_function(module) is None
    undo = surround(module, in_graph(GraphRole.OPAQUE)(plus(1)))
    assert isinstance(own_function(module), Patched) and graph_role(module.forward) is GraphRole.INLINE
    other = surround(module, plus(1))
    assert graph_role(module.forward) is None
    other()
    assert graph_role(module.forward) is GraphRole.INLINE
    undo()
    module.forward = lambda x: x
    surround(module, in_graph(GraphRole.INLINE)(plus(1)))
    assert graph_role(module.forward) is None


def test_hooks_declare_their_role_as_methods():
    class Hook:
        @in_graph(GraphRole.INLINE)
        def declared(self, *_):
            pass

        def undeclared(self, *_):
            pass

    assert graph_role(Hook().declared) is GraphRole.INLINE and graph_role(Hook().undeclared) is None


def test_an_opaque_patch_is_one_operator_of_a_capture(monkeypatch):
    module, operators = nn.Identity(), []
    surround(module, in_graph(GraphRole.OPAQUE)(plus(1)))
    surround(module, in_graph(GraphRole.INLINE)(plus(10)))
    monkeypatch.setattr(CAPTURE, "as_operator", lambda function: operators.append(function) or function)
    assert module(0) == 11 and len(operators) == 1
