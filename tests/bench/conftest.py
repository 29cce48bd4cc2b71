"""Shared by the tests of benches."""

import sys
from pathlib import Path

import pytest
from bench_models import MODEL

from tempoquant.cli import main


@pytest.fixture
def place(tmp_path, monkeypatch, fresh_registries) -> Path:
    """A working folder with a user's own model."""
    monkeypatch.chdir(tmp_path)
    Path("mine.py").write_text(MODEL)
    return tmp_path


@pytest.fixture
def run(place, monkeypatch, capfd):
    """Run a command line: its exit code, stdout and stderr."""

    def call(*args: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["tempoquant", *map(str, args)])
        with pytest.raises(SystemExit) as ended:
            main()
        out, err = capfd.readouterr()
        return ended.value.code, out, err

    return call
