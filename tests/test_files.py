"""Single files: whole or not at all, and a full disk is said in one line."""

import errno

import pytest
import torch
from safetensors.torch import load_file

from limits import file_size_limit, umask
from tempoquant.files import replacing, save_tensors, storage_error, write_whole


def test_a_file_is_replaced_whole_and_links_are_followed(tmp_path):
    (tmp_path / "real").write_text("old")
    (tmp_path / "link").symlink_to(tmp_path / "real")
    write_whole(tmp_path / "link", "new")
    assert (tmp_path / "link").is_symlink() and (tmp_path / "real").read_text() == "new"
    with pytest.raises(ValueError, match="no"), replacing(tmp_path / "real") as temporary:
        temporary.write_text("half")
        raise ValueError("no")
    assert (tmp_path / "real").read_text() == "new"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["link", "real"]


def test_saved_tensors_have_the_mode_of_other_files(tmp_path):
    with umask(0o022):
        save_tensors({"x": torch.arange(3)}, tmp_path / "x.safetensors", {"format": "pt"})
    assert (tmp_path / "x.safetensors").stat().st_mode & 0o777 == 0o644
    assert load_file(tmp_path / "x.safetensors")["x"].tolist() == [0, 1, 2]


def write_bytes(path):
    with replacing(path) as temporary:
        temporary.write_bytes(bytes(10**6))


WRITERS = {
    "tensors": (lambda path: save_tensors({"x": torch.zeros(10**6)}, path), "4.0 MB were needed"),
    "text": (lambda path: write_whole(path, "x" * 10**6), "1.0 MB were needed"),
    "another writer": (write_bytes, "files may have 0.1 MB"),
}


@pytest.mark.parametrize("kind", WRITERS)
def test_a_file_size_limit_names_the_file_and_what_it_needed(tmp_path, kind):
    path, (write, words) = tmp_path / "large.bin", WRITERS[kind]
    path.write_text("old")
    with file_size_limit(100_000), pytest.raises(OSError, match=words) as caught:
        write(path)
    assert (caught.value.errno, caught.value.filename) == (errno.EFBIG, str(path))
    assert path.read_text() == "old" and [p.name for p in tmp_path.iterdir()] == ["large.bin"]


def test_other_errors_are_not_taken_for_a_full_disk(tmp_path):
    assert storage_error(ValueError("no"), tmp_path / "x", 10**15) is None
    assert storage_error(FileNotFoundError(errno.ENOENT, "no such file", "y"), tmp_path / "x", 10**15) is None
    assert storage_error(RuntimeError("iostream error"), tmp_path / "x") is None
    found = storage_error(RuntimeError("iostream error"), tmp_path / "x", 10**18)
    assert found is not None and found.errno == errno.ENOSPC and found.filename == str(tmp_path / "x")
