"""Runs pytest in several processes that share the test files: ``python tests/parallel.py [pytest arguments]``.

Each process collects all tests and runs those of the files that it takes before the others do, so that they finish at
about the same time. They are plain pytest processes: one that dies fails the run, and stops nothing.
"""

import json
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from itertools import groupby
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

PROCESSES = 2
SHARE = "--share"
COUNTS = ("failed", "passed", "skipped", "xfailed", "xpassed", "error")
"""What a closing line counts, in pytest's order."""


class Share:
    """A pytest plugin that runs the files which no other process has taken, and writes how its tests ended.

    Args:
        folder: what the processes share; an empty file for each test file that one has taken.
        name: of this process's counts in ``folder``.
    """

    def __init__(self, folder: Path, name: str):
        self.folder, self.name = folder, name

    def pytest_runtestloop(self, session: pytest.Session) -> bool | None:
        if session.testsfailed or session.config.option.collectonly:
            return None  # pytest's own loop reports errors of collection, or lists tests
        items = self.taken(session)
        item = next(items, None)
        while item is not None:
            following = next(items, None)
            session.config.hook.pytest_runtest_protocol(item=item, nextitem=following)
            if session.shouldfail:
                raise session.Failed(session.shouldfail)
            if session.shouldstop:
                raise session.Interrupted(session.shouldstop)
            item = following
        return True

    def taken(self, session: pytest.Session) -> Iterator[pytest.Item]:
        """The tests of each file that this process takes when the one before it is done."""
        for path, tests in groupby(session.items, lambda item: item.path):
            name = path.relative_to(session.config.rootpath).as_posix().replace("/", "-")
            try:
                (self.folder / name).touch(exist_ok=False)
            except FileExistsError:
                continue
            yield from tests

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        counts = {name: len(terminalreporter.stats.get(name, ())) for name in COUNTS}
        (self.folder / self.name).write_text(json.dumps(counts))


def main(arguments: Sequence[str]) -> int:
    """Run the tests; the exit status is 0 if every process came to its end with 0."""
    begun = time.monotonic()
    with TemporaryDirectory() as name:
        folder = Path(name)
        logs = [None, *((folder / f"log{i}").open("w+") for i in range(1, PROCESSES))]
        command = [sys.executable, __file__, SHARE, name]
        processes = [
            subprocess.Popen([*command, f"counts{i}", *arguments], stdout=log, stderr=log) for i, log in enumerate(logs)
        ]
        codes = [process.wait() for process in processes]
        for log in filter(None, logs):
            log.seek(0)
            print(log.read())
        counts = [json.loads(path.read_text()) for path in folder.glob("counts*")]
        # A process that dies leaves no counts, whatever its exit status.
        died = PROCESSES - len(counts)
        totals = sum(map(Counter, counts), Counter(error=died))
    for i, code in enumerate(codes, 1):
        if code:
            print(f"process {i} of {PROCESSES} ended with exit status {code}")
    counted = ", ".join(f"{totals[name]} {name}" for name in COUNTS if totals[name] or name == "passed")
    print(f"{counted} in {time.monotonic() - begun:.2f}s", flush=True)
    return int(any(codes) or died > 0)


if __name__ == "__main__":
    if sys.argv[1:2] == [SHARE]:
        sys.exit(pytest.main(sys.argv[4:], plugins=[Share(Path(sys.argv[2]), sys.argv[3])]))
    sys.exit(main(sys.argv[1:]))
