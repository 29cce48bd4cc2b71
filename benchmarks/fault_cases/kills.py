"""Kills at every file operation of a job, and kills and signals at random moments."""

import json
import os
import random
import shutil
import signal
import time
from functools import partial
from pathlib import Path
from typing import Any

import tempoquant
from fault_cases.processes import INTERRUPTED, ended, fork, killing_at
from tempoquant.errors import FormatError, InputError
from tempoquant.outputs import interrupted_replacement
from tiny import small_recipe, unet_pipeline

EVERY = 1
"""Of the file operations, every so many-th is one to be killed at."""


def run(report: Any, options: Any) -> None:
    """Run all cases of this file."""
    for name, overwrite in (("quantize", False), ("quantize --overwrite", True)):
        job = _Job(options.work / name.replace(" ", "-"), overwrite)
        _at_every_operation(report, f"{name}, killed at every file operation", job)
        for signum in (signal.SIGKILL, signal.SIGINT):
            attack = f"{name}, {signal.Signals(signum).name} at random moments"
            _at_random_moments(report, attack, job, signum, options.random_kills)


class _Job:
    """A quantization into a folder beside files of the user's, with or without an older model in its place."""

    def __init__(self, root: Path, overwrite: bool):
        self.root, self.overwrite = root, overwrite
        root.mkdir()
        self.older, self.newer = root / "older", root / "newer"
        tempoquant.quantize(unet_pipeline(), small_recipe("rtn", weights=8), out=self.older)
        begun = time.perf_counter()
        self._quantize(self.newer)
        self.seconds = time.perf_counter() - begun

    def place(self) -> Path:
        """A new folder with the user's files in it, and the older model if it is to be replaced."""
        place = self.root / "place"
        shutil.rmtree(place, ignore_errors=True)
        for name in ("out.old", "out.kept", "mine"):
            (place / name).mkdir(parents=True)
            (place / name / "thesis.txt").write_text("years")
        if self.overwrite:
            shutil.copytree(self.older, place / "out")
        return place

    def run(self, place: Path) -> None:
        """The job under attack."""
        self._quantize(place / "out")

    def verdict(self, place: Path) -> tuple[str, bool]:
        """What is there after the attack, in words, and whether that and the next run are as promised."""
        out, found = place / "out", "nothing there"
        line = interrupted_replacement(out)
        if line is not None:
            found = "one command to finish"
            os.rename(line.split("mv ")[1].split(" ")[0], out)
        if out.exists():
            kept = [name for name, model in (("old", self.older), ("new", self.newer)) if _same(out, model)]
            found = f"{kept[0]} model there" if kept else "something else there"
            if not kept or (kept == ["old"] and not self.overwrite):
                return found, False
        elif self.overwrite:
            return "old model gone", False
        return found, self._next_run(place)

    def _next_run(self, place: Path) -> bool:
        child = fork(lambda: self._quantize(place / "out", overwrite=True), self.root / "log")
        ended_well = ended(child) == 0 and _same(place / "out", self.newer)
        left = sorted(path.name for path in place.iterdir())
        untouched = all((place / n / "thesis.txt").read_text() == "years" for n in ("out.old", "out.kept", "mine"))
        return ended_well and untouched and left == ["mine", "out", "out.kept", "out.old"]

    def _quantize(self, out: Path, **more: bool) -> None:
        options = {"overwrite": self.overwrite and out.name == "out", **more}
        tempoquant.quantize(unet_pipeline(), small_recipe("rtn"), out=out, **options)


def _at_every_operation(report: Any, attack: str, job: _Job) -> None:
    counted = job.root / "count"

    def counting() -> None:
        place = job.place()
        count = killing_at(0, place)
        job.run(place)
        counted.write_text(str(count()))

    assert ended(fork(counting)) == 0
    for number in range(1, int(counted.read_text()) + 1, EVERY):
        place = job.place()
        assert ended(fork(partial(_killed_at, number, job, place))) == -signal.SIGKILL
        found, held = job.verdict(place)
        report.add(attack, found, held=held, case=f"operation {number}")


def _killed_at(number: int, job: _Job, place: Path) -> None:
    killing_at(number, place)
    job.run(place)


def _at_random_moments(report: Any, attack: str, job: _Job, signum: int, cases: int) -> None:
    for case in range(cases):
        place = job.place()
        child = fork(partial(job.run, place))
        time.sleep(random.uniform(0, 1.2 * job.seconds))
        os.kill(child, signum)
        code = ended(child)
        found, held = job.verdict(place)
        held = held and code in (0, -signum, INTERRUPTED)
        report.add(attack, found, held=held, case=f"case {case}, exit code {code}")


def _same(folder: Path, model: Path) -> bool:
    """Whether two quantized folders hold the same model, and the first one loads."""
    try:
        tempoquant.load(folder, engine="simulation")
    except (FormatError, InputError):
        return False
    hashes = [json.loads((f / "tempoquant.json").read_text())["files"] for f in (folder, model)]
    return hashes[0] == hashes[1]
