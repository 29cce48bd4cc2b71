"""State by thread, and blocks on one module that overlap in any order."""

import copy
import itertools
import pickle
import threading

import pytest
from torch import nn

from tempoquant.modes import evaluating
from tempoquant.sharing import PerThread, SharedBlock


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
