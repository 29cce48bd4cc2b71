"""Output folders: nothing of anybody else's is deleted or overwritten, and a kill leaves the old or the new one."""

import json
import os
import subprocess
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from limits import umask
from tempoquant.errors import InputError
from tempoquant.files import TEMPORARY
from tempoquant.outputs import (
    MARKER,
    Kind,
    check_new,
    check_output,
    interrupted_replacement,
    is_unfinished,
    staging,
    writing,
)


def write(out: Path, text: str = "new", *, overwrite: bool = False) -> None:
    """Publish an output of one file in a folder."""
    with writing(out, Kind.IMAGES, overwrite=overwrite) as output, output.staging() as folder:
        (folder / "part").mkdir()
        (folder / "part" / "file.txt").write_text(text)


def contents(root: Path) -> dict[str, str]:
    """Every file below ``root`` but markers, by name; links by what they point to."""
    files = (path for path in sorted(root.rglob("*")) if path.name != MARKER)
    return {
        path.relative_to(root).as_posix(): os.readlink(path) if path.is_symlink() else path.read_text()
        for path in files
        if path.is_file() or path.is_symlink()
    }


@pytest.fixture(params=["exchange", "two renames"])
def renames(request, monkeypatch):
    """Publishing where the system exchanges two names in one step, and where it cannot."""
    if request.param == "two renames":
        monkeypatch.setattr(staging, "exchange", lambda a, b: False)
    return request.param


def test_an_output_is_published_with_its_marker_and_nothing_beside_it(tmp_path):
    write(tmp_path / "out")
    assert contents(tmp_path) == {"out/part/file.txt": "new"}
    marker = json.loads((tmp_path / "out" / MARKER).read_text())
    assert marker == {"format_version": 1, "kind": "folder of images", "finished": True, "files": ["part/file.txt"]}


def test_overwriting_replaces_what_was_written_and_spares_neighbours(tmp_path, renames):
    neighbours = ["out.old", "out.partial", "out.kept", "old", ".out", "out.tmp"]
    for name in neighbours:
        (tmp_path / name).mkdir()
        (tmp_path / name / "thesis.txt").write_text("years")
    write(tmp_path / "out")
    with pytest.raises(InputError, match=r"out exists: choose another folder or pass --overwrite"):
        write(tmp_path / "out", "second")
    write(tmp_path / "out", "second", overwrite=True)
    kept = {f"{name}/thesis.txt": "years" for name in neighbours}
    assert contents(tmp_path) == {"out/part/file.txt": "second", **kept}


@pytest.mark.parametrize("place", ["notes.txt", "part/notes.txt", "other/deep/notes.txt", ".hidden", "part/link"])
def test_a_file_of_the_users_inside_is_refused_by_name(tmp_path, place):
    write(tmp_path / "out")
    path = tmp_path / "out" / place
    path.parent.mkdir(parents=True, exist_ok=True)
    path.symlink_to(tmp_path) if place.endswith("link") else path.write_text("years")
    before = contents(tmp_path)
    with pytest.raises(InputError) as caught:
        write(tmp_path / "out", "second", overwrite=True)
    assert place in str(caught.value) and "\n" not in str(caught.value)
    assert contents(tmp_path) == before


def test_a_folder_without_a_marker_is_never_replaced(tmp_path):
    out = tmp_path / "model"
    (out / "unet").mkdir(parents=True)
    (out / "unet" / "config.json").write_text('{"quantization_config": {}}')
    with pytest.raises(InputError, match=r"unet/config\.json, not written by tempoquant"):
        write(out, overwrite=True)
    for forged in ("[]", '{"files": 3}', '{"files": ["unet/config.json"]}', "not json", "[" * 100_000):
        (out / MARKER).write_text(forged)
        with pytest.raises(InputError, match=r"unet/config.json"):
            write(out, overwrite=True)
    assert contents(out)["unet/config.json"] == '{"quantization_config": {}}'


def test_outputs_inside_of_an_output_go_with_it_unless_they_hold_something_else(tmp_path):
    write(tmp_path / "out")
    write(tmp_path / "out" / "diagnosis")
    write(tmp_path / "out", "second", overwrite=True)
    assert contents(tmp_path) == {"out/part/file.txt": "second"}
    write(tmp_path / "out" / "diagnosis")
    (tmp_path / "out" / "diagnosis" / "mine.txt").write_text("years")
    with pytest.raises(InputError, match=r"diagnosis/mine.txt"):
        write(tmp_path / "out", "third", overwrite=True)


def test_a_file_added_while_the_run_went_on_is_kept_and_named(tmp_path, renames):
    write(tmp_path / "out")
    with (
        pytest.warns(UserWarning, match="were added"),
        writing(tmp_path / "out", Kind.IMAGES, overwrite=True) as output,
        output.staging() as folder,
    ):
        (folder / "file.txt").write_text("second")
        (tmp_path / "out" / "late.txt").write_text("years")
    found = contents(tmp_path)
    assert found.pop("out/file.txt") == "second"
    assert list(found.values()) == ["years"] and ".kept-" in next(iter(found))


def test_a_symbolic_link_is_followed(tmp_path, renames):
    (tmp_path / "disk").mkdir()
    (tmp_path / "out").symlink_to(tmp_path / "disk" / "model")
    write(tmp_path / "out")
    write(tmp_path / "out", "second", overwrite=True)
    assert (tmp_path / "out").is_symlink()
    assert contents(tmp_path / "disk") == {"model/part/file.txt": "second"}


def test_a_failed_block_leaves_what_was_there(tmp_path):
    write(tmp_path / "out")
    for error in (ValueError("no"), KeyboardInterrupt()):
        with (
            pytest.raises(type(error)),
            writing(tmp_path / "out", Kind.IMAGES, overwrite=True) as output,
            output.staging() as folder,
        ):
            (folder / "file.txt").write_text("half")
            raise error
    assert contents(tmp_path) == {"out/part/file.txt": "new"}


def test_only_one_run_writes_to_an_output(tmp_path):
    inside, done = threading.Event(), threading.Event()

    def first() -> None:
        with writing(tmp_path / "out", Kind.IMAGES) as output:
            inside.set()
            done.wait(120)
            with output.staging() as folder:
                (folder / "file.txt").write_text("first")

    thread = threading.Thread(target=first)
    thread.start()
    assert inside.wait(10)
    for overwrite in (False, True):
        with pytest.raises(InputError, match="another run is writing to"):
            write(tmp_path / "out", overwrite=overwrite)
    assert in_a_child(lambda: write(tmp_path / "out")) == 2
    done.set()
    thread.join()
    assert contents(tmp_path) == {"out/file.txt": "first"}


def in_a_child(run: Callable[[], None]) -> int:
    """The exit code of a forked process that does nothing but ``run``."""
    child = os.fork()
    if child == 0:
        try:
            run()
            os._exit(0)
        except InputError:
            os._exit(2)
        finally:
            os._exit(1)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def killed_while_writing(out: Path, moment: str) -> None:
    """Begin to replace ``out`` in a process that dies at this moment."""
    renames = 0

    def counted(rename: Callable[..., None]) -> Callable[..., None]:
        def dying(*paths: Path) -> None:
            nonlocal renames
            renames += not Path(paths[0]).name.startswith(TEMPORARY)
            if moment == f"rename {renames}":
                os._exit(9)
            rename(*paths)

        return dying

    def run() -> None:
        if moment.startswith("rename"):
            staging.exchange = lambda a, b: False
        os.rename, os.replace = counted(os.rename), counted(os.replace)
        if moment == "deletion":
            staging.delete_listed = lambda folder: os._exit(9)
        with writing(out, Kind.IMAGES, overwrite=True) as output, output.staging() as folder:
            (folder / "part").mkdir()
            (folder / "part" / "file.txt").write_text("second")
            if moment == "block":
                os._exit(9)

    assert in_a_child(run) == 9


@pytest.mark.parametrize("moment", ["block", "deletion", "rename 1", "rename 2"])
def test_a_kill_leaves_the_old_or_the_new_one_and_the_next_run_cleans_up(tmp_path, moment):
    out = tmp_path / "out"
    write(out, "first")
    killed_while_writing(out, moment)
    if moment == "rename 2":
        assert not out.exists()
        line = interrupted_replacement(out)
        assert line is not None and "\n" not in line
        with pytest.raises(InputError, match="mv "):
            write(out, "third", overwrite=True)
        subprocess.run(line.split("`")[1], shell=True, check=True)
    expected = {"block": "first", "deletion": "second", "rename 1": "first", "rename 2": "second"}[moment]
    assert (out / "part" / "file.txt").read_text() == expected
    assert interrupted_replacement(out) is None
    write(out, "third", overwrite=True)
    assert contents(tmp_path) == {"out/part/file.txt": "third"}


def test_what_a_killed_run_left_is_known_as_unfinished(tmp_path):
    killed_while_writing(tmp_path / "out", "block")
    (left,) = tmp_path.glob(".tempoquant-staging-*")
    assert is_unfinished(left)
    write(tmp_path / "out")
    assert not is_unfinished(tmp_path / "out") and not left.exists()


def test_modes_are_those_of_the_umask(tmp_path):
    with umask(0o027):
        write(tmp_path / "out")
    modes = {path.name: path.stat().st_mode & 0o777 for path in (tmp_path / "out", *(tmp_path / "out").rglob("*"))}
    assert modes == {"out": 0o750, "part": 0o750, "file.txt": 0o640, MARKER: 0o640}


CHECKS = [lambda path, overwrite: check_output(path, overwrite, Kind.IMAGES), check_new]


@pytest.mark.parametrize("check", CHECKS)
def test_places_that_cannot_be_written_are_refused_in_one_line(tmp_path, check):
    (tmp_path / "file").write_text("text")
    for path in (tmp_path / "none" / "out", tmp_path / "file" / "out", tmp_path / ("x" * 300), tmp_path / "a\0b"):
        with pytest.raises(InputError) as caught:
            check(path, True)
        assert "\n" not in str(caught.value) and len(str(caught.value)) < 400


def test_an_output_file_is_no_folder_and_an_output_folder_no_file(tmp_path):
    (tmp_path / "file").write_text("text")
    with pytest.raises(InputError, match="is a file: choose another name"):
        check_output(tmp_path / "file", True, Kind.IMAGES)
    for path in (tmp_path, Path("/dev/null")):
        with pytest.raises(InputError, match="a file's name is needed"):
            check_new(path, True)
    check_new(tmp_path / "file", True)
    check_output(tmp_path / "new", False, Kind.IMAGES)


def test_an_output_of_another_kind_is_not_replaced(tmp_path):
    write(tmp_path / "out")
    with pytest.raises(InputError, match=r"another output \(folder of images\): choose another folder"):
        check_output(tmp_path / "out", True, Kind.DIAGNOSIS)
