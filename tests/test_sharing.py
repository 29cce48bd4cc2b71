"""State by thread, and blocks on one module that overlap in any order."""

import copy
import inspect
import itertools
import pickle
import threading

import pytest
import torch
from torch import nn

from tempoquant.sampling.sampling import evaluating
from tempoquant.sharing import PerThread, SharedBlock, surround


class State(PerThread):
    value: int | None = None


def in_thread(task):
    found = []
    thread = threading.Thread(target=lambda: found.append(task()))
    thread.start()
    thread.join()
    return found[0]


def test_every_thread_has_its_own_values_and_a_copy_takes_them_along():
    state = State()
    state.value = 3
    assert in_thread(lambda: state.value) is None
    assert copy.deepcopy(state).value == 3
    assert in_thread(lambda: copy.deepcopy(state).value) is None
    assert pickle.loads(pickle.dumps(state)).value is None


class Block(SharedBlock):
    def __init__(self, module, log):
        super().__init__(module)
        self.log = log

    def start(self):
        self.log.append("start")

    def stop(self):
        self.log.append("stop")


@pytest.mark.parametrize("order", itertools.permutations(range(3)))
def test_overlapping_blocks_are_one_in_any_order_of_exit(order):
    log = []
    blocks, module = [Block(module := nn.Identity(), log)], module
    blocks += [Block(module, log) for _ in range(2)]
    assert all(block.__enter__() is blocks[0] for block in blocks)
    with Block(nn.Identity(), other := []):
        for i in order[:2]:
            blocks[i].__exit__(None, None, None)
            assert log == ["start"]
        blocks[order[2]].__exit__(None, None, None)
    assert log == other == ["start", "stop"]
    with blocks[1] as entered:
        assert entered is blocks[1]


def test_a_block_that_does_not_start_is_not_entered():
    class Failing(Block):
        def start(self):
            raise ValueError("on purpose")

    module = nn.Identity()
    for _ in range(2):
        with pytest.raises(ValueError, match="on purpose"), Failing(module, []):
            pass


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


def test_evaluation_mode_lasts_as_long_as_any_block():
    module = nn.Sequential(nn.Dropout(), nn.Dropout().eval()).train()
    module[1].eval()
    first, second = evaluating(module), evaluating(module)
    first.__enter__()
    second.__enter__()
    first.__exit__(None, None, None)
    assert not module[0].training
    second.__exit__(None, None, None)
    assert module.training and module[0].training and not module[1].training
