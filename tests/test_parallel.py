"""Tests in several processes: each file once, and a process that dies fails the run."""

import re
import subprocess
import sys

import pytest

import parallel

PASSES = "import time\ndef test_first(): time.sleep(0.1)\ndef test_second(): pass\n"


def run(folder, *options):
    """The exit status and the last line of tests in a folder."""
    command = [sys.executable, parallel.__file__, "-p", "no:cacheprovider", *options]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=120)
    return done.returncode, done.stdout.splitlines()[-1]


@pytest.mark.parametrize(
    ("body", "code", "counted"),
    [
        ("def test_third(): pass", 0, "9 passed"),
        ("def test_third(): assert 0", 1, "1 failed, 8 passed"),
        ("import os\ndef test_third(): os._exit(0)", 1, r"\d passed, 1 error"),
        ("1 / 0", 1, "0 passed, 2 error"),
    ],
    ids=["pass", "fail", "die", "cannot be imported"],
)
def test_the_last_line_adds_up_and_any_failure_fails(tmp_path, body, code, counted):
    for name in "abcd":
        (tmp_path / f"test_{name}.py").write_text(PASSES)
    (tmp_path / "test_last.py").write_text(body)
    found, line = run(tmp_path)
    assert found == code and re.fullmatch(rf"{counted} in \d+\.\d\ds", line)
