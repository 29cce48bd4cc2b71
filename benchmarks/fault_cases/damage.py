"""Damaged quantized folders of four kinds: refused in one line, or the same picture; see ``tests/fuzzing.py``."""

from typing import Any

from fuzzing import BAD, attack, make_originals


def run(report: Any, options: Any) -> None:
    """Run all cases of this file."""
    root = options.work / "originals"
    root.mkdir()
    originals = make_originals(root)
    for number in range(options.fuzz):
        found = attack(originals, number, options.work / "damaged")
        case = f"{number}, {found.folder} {found.damage}: {found.error}"
        report.add("damaged folders", found.result, held=found.result not in BAD, case=case)
