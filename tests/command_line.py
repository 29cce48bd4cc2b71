"""The command line within this process."""

import sys

import pytest

from tempoquant.cli import main


def run(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], *words: str) -> tuple[int, str, str]:
    """Run ``tempoquant WORDS``: its exit code, stdout and stderr."""
    monkeypatch.setattr(sys, "argv", ["tempoquant", *words])
    with pytest.raises(SystemExit) as ended:
        main()
    out, err = capfd.readouterr()
    return ended.value.code, out, err
