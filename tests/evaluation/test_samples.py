"""Samples in a folder: a folder of the user's with files of the same names is not touched."""

import pytest
import torch

from tempoquant.errors import InputError
from tempoquant.evaluation import save_samples
from tempoquant.outputs import check_samples_output

SAMPLES = torch.zeros(2, 1, 8, 8)


def test_a_folder_of_the_users_pictures_is_not_overwritten(tmp_path):
    photos = tmp_path / "photos"
    photos.mkdir()
    (photos / "00000.png").write_bytes(b"years")
    for overwrite in (False, True):
        for act in (lambda o: check_samples_output(photos, o), lambda o: save_samples(SAMPLES, photos, overwrite=o)):
            with pytest.raises(InputError, match=r"exists|00000\.png, not written by tempoquant"):
                act(overwrite)
    assert (photos / "00000.png").read_bytes() == b"years"


def test_a_folder_of_samples_is_replaced_whole(tmp_path):
    save_samples(SAMPLES, tmp_path / "drawn")
    save_samples(SAMPLES[:1], tmp_path / "drawn", overwrite=True)
    assert [path.name for path in (tmp_path / "drawn").glob("*.png")] == ["00000.png"]


def test_a_folder_is_no_file_and_a_file_no_folder(tmp_path):
    (tmp_path / "a.png").mkdir()
    (tmp_path / "folder").touch()
    for path in (tmp_path / "a.png", tmp_path / "folder"):
        with pytest.raises(InputError, match=r"is a folder|is a file"):
            check_samples_output(path, True)
