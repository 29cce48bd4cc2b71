"""Tables that follow each run's schedule: one schedule at a time, however many threads draw."""

import threading
import time

import pytest
import torch

from tempoquant.errors import InputError
from tempoquant.sampling.schedule_tables import TablesBySchedule

FEW, MANY = torch.tensor([75, 25]), torch.tensor([90, 60, 30])


def tables():
    made = []
    return made, TablesBySchedule(lambda steps: made.append(len(steps)) or steps)


def waiting(task):
    """A thread that runs ``task``, once it had time to start waiting."""
    thread = threading.Thread(target=task)
    thread.start()
    time.sleep(0.05)
    return thread


def test_runs_of_one_schedule_share_tables_and_others_wait_in_order():
    made, shared = tables()
    order = []

    def run(name, steps):
        with shared.during(steps) as rows:
            order.append((name, rows.tolist()))

    with shared.during(FEW):
        same = waiting(lambda: run("same", FEW.flip(0)))
        same.join(5)
        other = waiting(lambda: run("other", MANY))
        # Behind the one that waits, though it needs the tables that there are.
        late = waiting(lambda: run("late", FEW))
        assert order == [("same", [25, 75])] and made == [2]
    for thread in (other, late):
        thread.join(5)
    assert order == [("same", [25, 75]), ("other", [30, 60, 90]), ("late", [25, 75])]
    assert made == [2, 3, 2]


def test_a_run_within_a_run_goes_on_or_says_why_not():
    made, shared = tables()
    with shared.during(FEW):
        other = waiting(lambda: shared(MANY))
        with shared.during(FEW):
            pass
        with pytest.raises(InputError, match="3 time steps need other tables than the 2 of the run"):
            shared(MANY)
        assert made == [2]
    other.join(5)
    assert made == [2, 3] and shared(FEW).tolist() == [25, 75]


def test_tables_that_cannot_be_made_leave_room_for_others():
    def make(steps):
        if len(steps) == 3:
            raise ValueError("on purpose")
        return steps

    shared = TablesBySchedule(make)
    with pytest.raises(ValueError, match="on purpose"):
        shared(MANY)
    assert shared(FEW).tolist() == [25, 75]
