"""Doing tasks in this process or in several: runs that share weights one after another, so that one makes them."""

import multiprocessing
import os
import signal
import threading
import warnings
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from multiprocessing.connection import wait as wait_for
from pathlib import Path

import torch

from tempoquant.bench.board import Board
from tempoquant.bench.records import Record
from tempoquant.bench.runner import Setup, Task, runner_of
from tempoquant.errors import TempoquantError
from tempoquant.methods import load_plugins
from tempoquant.progress import Silent
from tempoquant.quiet import quiet_libraries

Result = Record | TempoquantError


def work(setup: Setup, chains: Sequence[Sequence[Task]], jobs: int, board: Board) -> Iterator[tuple[Task, Result]]:
    """Do all tasks and yield each with its record, or the error it failed with, as they finish.

    Args:
        chains: the tasks of a chain are done one after another, those of different chains in any order.
        jobs: processes; with 1 everything happens in this one.
    """
    return _here(setup, chains, board) if jobs == 1 else _elsewhere(setup, chains, jobs, board)


def _here(setup: Setup, chains: Sequence[Sequence[Task]], board: Board) -> Iterator[tuple[Task, Result]]:
    for task in (task for chain in chains for task in chain):
        board.began(task.run.name)
        try:
            yield task, runner_of(setup)(task, board)
        except TempoquantError as error:
            yield task, error


def _elsewhere(
    setup: Setup, chains: Sequence[Sequence[Task]], jobs: int, board: Board
) -> Iterator[tuple[Task, Result]]:
    waiting, running = deque(deque(chain) for chain in chains), {}  # type: ignore[var-annotated]
    with _workers(setup, jobs) as pool:
        while waiting or running:
            while waiting and len(running) < jobs:
                chain = waiting.popleft()
                board.began(chain[0].run.name)
                running[pool.submit(_do, setup, chain[0])] = chain
            finished: set[Future] = wait(running, timeout=1, return_when=FIRST_COMPLETED).done
            for future in finished:
                chain = running.pop(future)
                task = chain.popleft()
                if chain:
                    waiting.appendleft(chain)
                try:
                    yield task, future.result()
                except BrokenProcessPool:
                    raise TempoquantError(
                        f"{task.run.name}: a worker process died (out of memory?); the same command goes on from here"
                    ) from None
                except TempoquantError as error:
                    yield task, error


def _do(setup: Setup, task: Task) -> Record:
    return runner_of(setup)(task, Silent())


@contextmanager
def _workers(setup: Setup, jobs: int) -> Iterator[ProcessPoolExecutor]:
    """Worker processes that end with this block, however it ends."""
    others = set(multiprocessing.active_children())
    pool = ProcessPoolExecutor(jobs, multiprocessing.get_context("spawn"), _begin, (setup,))
    try:
        yield pool
    except BaseException:
        for process in set(multiprocessing.active_children()) - others:
            process.terminate()
        raise
    finally:
        pool.shutdown(cancel_futures=True)


def _begin(setup: Setup) -> None:
    """Make this process a worker: its share of the threads, quiet, and gone when its parent is."""
    torch.set_num_threads(setup.threads)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    warnings.simplefilter("ignore")
    quiet_libraries()
    threading.Thread(target=_end_with_parent, daemon=True).start()
    load_plugins([Path(file) for file in setup.plugins])


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None
    wait_for([parent.sentinel])
    os._exit(1)
