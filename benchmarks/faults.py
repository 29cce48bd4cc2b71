"""Attacks on what a user relies on, in one command, with a table of what held.

Kills at every file operation and at random moments, signals, full disks, file size limits, threads that share one
model, and damaged folders. Every case ends with a check: the user's files are untouched, what loads has the bits of
the old or of the new model, the next run succeeds with the bits of an uninterrupted one, an error is one line.

    python benchmarks/faults.py --json faults.json            # about ten minutes on two cores
    python benchmarks/faults.py --parts kills,damage --fuzz 200

Full disks need a file system of their own: mounted where the process may (root on Linux), else left out, and so said.
"""

import argparse
import json
import random
import sys
import time
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from logging import CRITICAL
from pathlib import Path
from tempfile import TemporaryDirectory

import diffusers
import torch

ROOT = Path(__file__).parents[1]
sys.path[:0] = [str(ROOT / "tests"), str(ROOT / "benchmarks")]

from fault_cases import damage, disks, kills, threads  # noqa: E402

PARTS: dict[str, Callable[["Report", argparse.Namespace], None]] = {
    "kills": kills.run,
    "disks": disks.run,
    "threads": threads.run,
    "damage": damage.run,
}


@dataclass
class Report:
    """Counts of outcomes by attack, and the line of every case that did not hold."""

    counts: dict[str, Counter[str]] = field(default_factory=dict)
    failures: list[str] = field(default_factory=list)

    def add(self, attack: str, outcome: str, *, held: bool = True, case: str = "") -> None:
        """Count one case of an attack."""
        self.counts.setdefault(attack, Counter())[outcome] += 1
        if not held:
            self.failures.append(f"{attack}: {case}: {outcome}")
            print(f"NOT HELD: {self.failures[-1]}", file=sys.stderr, flush=True)

    def rows(self) -> Iterator[tuple[str, int, int, str]]:
        """Attack, cases, cases that held, and outcomes in words."""
        for attack, outcomes in self.counts.items():
            cases = sum(outcomes.values())
            lost = sum(line.startswith(f"{attack}: ") for line in self.failures)
            yield attack, cases, cases - lost, "; ".join(f"{count} {name}" for name, count in outcomes.most_common())

    def markdown(self) -> str:
        """The table of docs/reliability.md."""
        lines = ["| attack | cases | held | outcomes |", "| --- | --- | --- | --- |"]
        return "\n".join([*lines, *(f"| {a} | {n} | {h} | {words} |" for a, n, h, words in self.rows())])


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--parts", default=",".join(PARTS), help=f"of {', '.join(PARTS)}")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--random-kills", type=int, default=40, help="kills and signals at random moments, each")
    parser.add_argument("--fuzz", type=int, default=2000, help="mutations of quantized folders")
    parser.add_argument("--json", type=Path, help="also write the counts to this file")
    options = parser.parse_args()
    unknown = set(options.parts.split(",")) - set(PARTS)
    if unknown:
        parser.error(f"--parts {', '.join(sorted(unknown))}: give some of {', '.join(PARTS)}")
    # No thread pool may be alive when processes fork.
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    # What diffusers says of unknown entries in damaged files.
    diffusers.utils.logging.set_verbosity(CRITICAL)
    random.seed(options.seed)
    report, begun = Report(), time.perf_counter()
    for name in options.parts.split(","):
        with TemporaryDirectory(prefix="tempoquant-faults-") as folder:
            options.work = Path(folder)
            PARTS[name](report, options)
    seconds = round(time.perf_counter() - begun)
    print(report.markdown())
    print(f"{sum(n for _, n, _, _ in report.rows())} cases, {len(report.failures)} not held, {seconds} s")
    if options.json is not None:
        counts = {attack: dict(outcomes) for attack, outcomes in report.counts.items()}
        found = {"seed": options.seed, "seconds": seconds, "counts": counts, "failures": report.failures}
        options.json.write_text(json.dumps(found, indent=1) + "\n")
    return bool(report.failures)


if __name__ == "__main__":
    sys.exit(main())
