"""The process of the command line: its version, how it ends when it is asked to, and what libraries print in it."""

import os
import signal
import subprocess
import sys
import time

from test_cli import file, run  # noqa: F401

import tempoquant
from conditional_models import text_pipeline

WAITS = """
import time
from pathlib import Path


def waits():
    Path("begun").touch()
    try:
        time.sleep(60)
    finally:
        Path("closed").touch()
"""


def test_version(run):  # noqa: F811
    assert run("--version") == (0, f"tempoquant {tempoquant.__version__}\n", "")


def test_terminating_is_one_line(run, monkeypatch):  # noqa: F811
    def terminated(*args, **kwargs):
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(5)

    before = signal.getsignal(signal.SIGTERM)
    monkeypatch.setattr("tempoquant.api.run_job", terminated)
    assert run("quantize", "mine.py:make", "-o", "out") == (143, "", "tempoquant: terminated\n")
    assert signal.getsignal(signal.SIGTERM) == before


def test_a_terminated_process_closes_what_is_open(tmp_path):
    (tmp_path / "mine.py").write_text(WAITS)
    code = "from tempoquant.cli import main; main()"
    command = [sys.executable, "-c", code, "quantize", "mine.py:waits", "-o", "out"]
    process = subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    while not (tmp_path / "begun").exists() and process.poll() is None:
        time.sleep(0.05)
    process.terminate()
    out, err = process.communicate(timeout=60)
    assert (process.returncode, out, err) == (143, "", "tempoquant: terminated\n")
    assert (tmp_path / "closed").exists() and not (tmp_path / "out").exists()


def test_libraries_say_nothing_on_the_way(tmp_path):
    (tmp_path / "files").mkdir()
    text_pipeline(tmp_path / "files").save_pretrained(tmp_path / "model")
    (tmp_path / "p.txt").write_text("a b\nc\n")
    code = (
        "import warnings; from tempoquant.cli import main\n"
        "import tempoquant.api as api; own = api.quantize\n"
        "api.quantize = lambda *a, **k: (warnings.warn('of\\nours'), own(*a, **k))[1]\n"
        "main()"
    )
    args = ("model", "--method", "rtn", "--samples", "1", "--steps", "1", "--prompts", "p.txt", "-o", "out")
    command = [sys.executable, "-c", code, "quantize", *args]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    lines = [line for line in done.stderr.splitlines() if "ETA" not in line]
    assert done.returncode == 0 and lines == ["tempoquant: warning: of ours"]
