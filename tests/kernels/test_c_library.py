"""The compiled library: kept for its own source, compiler and processor, never trusted, and never an error."""

import ctypes
import multiprocessing
import os
import shutil
import stat
import threading
from pathlib import Path

import pytest

from tempoquant.evaluation import default_cache
from tempoquant.kernels import c_library, compiled
from tempoquant.kernels.c_library import CLibrary, load_c_library

pytestmark = pytest.mark.skipif(shutil.which("cc") is None, reason="no C compiler")
SOURCE = "void answer(int *out) { *out = NUMBER; }"
FUNCTIONS = {"answer": [ctypes.c_void_p]}


@pytest.fixture
def source(tmp_path, monkeypatch) -> Path:
    """A small C source, and an empty cache."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    path = tmp_path / "small.c"
    path.write_text(SOURCE)
    return path


def load(source: Path, command: str = "cc", number: int = 42, functions=FUNCTIONS) -> CLibrary:
    return load_c_library(source, command, ("-shared", "-fPIC", f"-DNUMBER={number}"), functions)


def answer(library: CLibrary) -> int:
    assert library.problem is None and library.functions is not None
    out = ctypes.c_int()
    library.functions.answer(ctypes.byref(out))
    return out.value


def script(tmp_path: Path, text: str) -> str:
    """A compiler of our own; ``--version`` answers."""
    path = tmp_path / "compiler"
    path.write_text(f'#!/bin/sh\n[ "$1" = --version ] && echo "compiler 1" && exit\n{text}\n')
    path.chmod(0o755)
    return str(path)


def kept(tmp_path: Path) -> list[Path]:
    return sorted((tmp_path / "cache").rglob("*.so"))


def test_what_was_built_is_found_again_in_a_folder_of_ours_alone(source, tmp_path):
    first, second = load(source), load(source)
    assert (first.built, second.built) == (True, False)
    assert answer(first) == answer(second) == 42
    assert [first.path] == [second.path] == kept(tmp_path)
    assert stat.S_IMODE(first.path.parent.stat().st_mode) == 0o700
    assert sorted(first.path.parent.iterdir()) == [first.path]


def test_another_source_flag_or_compiler_is_another_library(source, tmp_path):
    assert answer(load(source)) == 42
    assert answer(load(source, number=7)) == 7
    assert load(source, script(tmp_path, 'exec cc "$@"')).built
    source.write_text(SOURCE.replace("NUMBER", "NUMBER + 1"))
    assert answer(load(source)) == 43
    assert len(kept(tmp_path)) == 4


@pytest.mark.parametrize("damage", ["truncated", "empty", "changed", "missing symbol", "no library"])
def test_a_broken_library_is_built_again(source, tmp_path, damage):
    path = load(source).path
    data = path.read_bytes()
    if damage == "missing symbol":
        other = tmp_path / "other.c"
        other.write_text("void question(void) {}")
        data = load(other, functions={}).path.read_bytes()
        path.unlink()
        path = path.with_name(f"{path.stem.rpartition('-')[0]}-{c_library._digest(data)}.so")
    broken = {"truncated": data[: len(data) // 3], "empty": b"", "changed": data[:-1] + b"!", "no library": b"text"}
    # A new file: this process still runs the old one.
    path.unlink(missing_ok=True)
    path.write_bytes(broken.get(damage, data))
    if damage == "no library":
        path = path.rename(path.with_name(f"{path.stem.rpartition('-')[0]}-{c_library._digest(b'text')}.so"))
    found = load(source)
    assert found.built and answer(found) == 42 and found.path.exists()
    assert found.path == path or not path.exists()
    assert not load(source).built


@pytest.mark.parametrize("place", ["open to all", "another's link", "a file", "read only", "no home"])
def test_without_a_folder_of_ours_a_library_is_built_for_this_process_alone(source, tmp_path, monkeypatch, place):
    path = load(source).path
    folder = path.parent
    if place == "open to all":
        folder.chmod(0o777)
    elif place == "another's link":
        folder.rename(tmp_path / "mine")
        folder.symlink_to(tmp_path / "mine")
        mine = os.lstat
        others = os.stat_result((*mine(folder)[:4], os.geteuid() + 1, *mine(folder)[5:]))
        monkeypatch.setattr(Path, "lstat", lambda path: others if path == folder else mine(path))
    elif place == "a file":
        shutil.rmtree(folder)
        folder.write_text("mine")
    elif place == "read only":
        access = os.access
        monkeypatch.setattr(os, "access", lambda path, mode: path != folder and access(path, mode))
    else:
        monkeypatch.delenv("XDG_CACHE_HOME")
        monkeypatch.setattr(Path, "home", unfindable)
        assert default_cache() is None
    before = {p: p.stat().st_mtime_ns for p in (tmp_path / "cache").rglob("*")}
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    found = load(source)
    assert found.built and found.path is None and answer(found) == 42
    assert {p: p.stat().st_mtime_ns for p in (tmp_path / "cache").rglob("*")} == before
    assert not list(tmp_path.glob("tempoquant-*"))


def unfindable():
    raise RuntimeError("Could not determine home directory.")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("echo it broke >&2; echo more >&2; exit 1", "compiler failed: it broke"),
        ("sleep 60", "compiler did not end within 0.5 s"),
        ("exit 0", "No such file"),
        ('echo text > "$5"', "too short"),
        ("exec cc -x c /dev/null -shared -o $5", "answer"),
    ],
)
def test_a_compiler_that_fails_is_one_line(source, tmp_path, monkeypatch, text, said):
    if "sleep" in text:
        monkeypatch.setattr(c_library, "COMPILE_SECONDS", 0.5)
    found = load(source, script(tmp_path, text))
    assert found.functions is None and said in found.problem and "\n" not in found.problem
    assert "compiler 1" in found.compiler


def test_no_compiler_at_all(source, tmp_path):
    found = load(source, "no-such-compiler")
    assert found.problem == "there is no C compiler 'no-such-compiler'" and found.compiler is None
    assert "failed" in load(source, "false").problem
    assert not kept(tmp_path)


def test_threads_wait_for_one_build(source, tmp_path):
    command = script(tmp_path, f'echo called >> {tmp_path}/calls; exec cc "$@"')
    found: list[CLibrary] = []
    threads = [threading.Thread(target=lambda: found.append(load(source, command))) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [answer(library) for library in found] == [42] * 4
    assert (tmp_path / "calls").read_text() == "called\n"


def build(source, start) -> None:
    start.wait()
    os._exit(answer(load(source)))


def test_processes_may_build_at_once(source, tmp_path):
    context = multiprocessing.get_context("fork")
    start = context.Barrier(3)
    processes = [context.Process(target=build, args=(source, start)) for _ in range(3)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    assert [process.exitcode for process in processes] == [42] * 3
    assert len(kept(tmp_path)) == 1 and not load(source).built


def test_falling_back_is_one_warning_and_wanting_none_is_not(source, monkeypatch, recwarn):
    passes = compiled.compiled_passes.__wrapped__
    monkeypatch.setenv(compiled.COMPILER, "")
    assert passes() is None and not recwarn.list
    monkeypatch.setenv(compiled.COMPILER, "no-such-compiler")
    assert passes() is None
    assert ["no C compiler 'no-such-compiler'" in str(w.message) for w in recwarn.list] == [True]
