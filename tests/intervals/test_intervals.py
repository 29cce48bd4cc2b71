import copy
import gc
import threading
import weakref

import pytest
import torch
from torch import nn

from tempoquant.errors import TempoquantError
from tempoquant.intervals import Clock, ConstantInterval, TableInterval
from tempoquant.numerics import QParams


class Net(nn.Module):
    def forward(self, x, timestep):
        return x


def _clock(*steps):
    return Clock(torch.tensor(steps), 1, "timestep")


def _table(clock):
    n = len(clock)
    return TableInterval(QParams(torch.arange(1, n + 1) / 10, torch.arange(n), 0, 15), 4, clock)


def test_rows_are_unique_and_ascending_and_repeats_share_one():
    clock = _clock(0, 0, 2, 2, 10, 4)
    assert clock.timesteps.tolist() == [0, 2, 4, 10]
    assert clock.rows(torch.tensor([0, 2, 4, 10])).tolist() == [0, 1, 2, 3]


def test_unseen_time_steps_take_the_nearest_row_with_edges_at_midpoints():
    clock = _clock(0, 10, 20)
    assert clock.rows(torch.tensor([4.9, 5.1, 14.0, 16.0, 999.0, -3.0])).tolist() == [0, 1, 1, 2, 2, 0]


@pytest.mark.parametrize("call", [lambda m, t: m(torch.zeros(2), t), lambda m, t: m(torch.zeros(2), timestep=t)])
@pytest.mark.parametrize("t", [10, 10.0, torch.tensor(10), torch.tensor([10])])
def test_the_hook_reads_the_argument_however_it_is_given(call, t):
    clock, net = _clock(0, 10, 20), Net()
    clock.attach(net)
    call(net, t)
    assert clock.row.shape == () and int(clock.row) == 1


def test_mixed_time_steps_give_one_row_an_item_in_any_order():
    clock, net = _clock(0, 10, 20), Net()
    clock.attach(net)
    net(torch.zeros(3), torch.tensor([20, 0, 10]))
    interval = _table(clock).current()
    assert interval.scale.tolist() == pytest.approx([0.3, 0.1, 0.2])
    assert interval.zero_point.tolist() == [2, 0, 1]
    spread = interval.over(torch.zeros(6, 4, 5))
    assert spread.scale.shape == (6, 1, 1)
    assert spread.zero_point.flatten().tolist() == [2, 2, 0, 0, 1, 1]


def test_an_input_that_time_steps_do_not_divide_is_refused():
    clock = _clock(0, 10)
    with clock.at(torch.tensor([0, 10])), pytest.raises(TempoquantError, match="2 time steps cannot be spread"):
        _table(clock)(torch.zeros(3, 4))


def test_a_table_of_one_row_equals_a_constant():
    clock = _clock(7)
    qparams = QParams(torch.tensor([0.25]), torch.tensor([3]), 0, 255)
    with clock.at(900):
        table, constant = TableInterval(qparams, 8, clock).current(), ConstantInterval(qparams, 8).current()
    assert all(torch.equal(a, b) for a, b in zip(vars(table).values(), vars(constant).values(), strict=True))


def test_a_table_needs_a_time_step_and_the_right_length():
    clock = _clock(0, 10)
    with pytest.raises(TempoquantError, match="before the denoiser was called"):
        _table(clock).current()
    with pytest.raises(TempoquantError, match="does not fit a clock of 2 rows"):
        TableInterval(QParams(torch.ones(3), torch.zeros(3), 0, 15), 4, clock)


def test_copies_of_a_model_have_a_clock_of_their_own():
    clock, net = _clock(0, 10, 20), Net()
    net.table = _table(clock)
    clock.attach(net)
    twin = copy.deepcopy(net)
    twin(torch.zeros(1), 20)
    assert clock.row is None and float(twin.table.current().scale) == pytest.approx(0.3)


def test_a_call_without_a_time_step_is_an_error():
    clock, net = _clock(0), Net()
    clock.attach(net)
    with pytest.raises(TempoquantError, match="without its time step argument 'timestep'"):
        net(torch.zeros(1))


def test_every_thread_has_its_own_time_step():
    clock, net = _clock(0, 10, 20), Net()
    clock.attach(net)
    net(torch.zeros(1), 20)
    found = []

    def other():
        found.append((clock.timestep, clock.row))
        net(torch.zeros(1), 10)
        found.append(int(clock.row))

    thread = threading.Thread(target=other)
    thread.start()
    thread.join()
    assert found == [(None, None), 1] and int(clock.row) == 2


def test_a_block_at_a_time_step_gives_back_the_one_before():
    clock, table = _clock(0, 10, 20), _table(_clock(0, 10, 20))
    table.clock = clock
    with clock.at(10):
        with pytest.raises(ValueError, match="on purpose"), clock.at(torch.tensor([0, 20])):
            assert clock.row.tolist() == [0, 2]
            raise ValueError("on purpose")
        assert int(clock.row) == 1
    assert clock.row is None and clock.timestep is None


def test_dropped_clocks_are_freed():
    clock, net = _clock(0, 10), Net()
    handle = clock.attach(net)
    net(torch.zeros(1), 10)
    handle.remove()
    left, row = weakref.ref(clock), weakref.ref(clock.row)
    del clock
    gc.collect()
    assert left() is None and row() is None
