"""Images by what a user calls them, and what a model does not take."""

import gzip
import sys
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

from tempoquant.errors import InputError
from tempoquant.evaluation import save_images
from tempoquant.training.data import Pictures, open_images
from training_models import images


def write_idx(path, pictures):
    header = b"".join(n.to_bytes(4, "big") for n in (2051, *pictures.shape[:3]))
    data = header + pictures.numpy().tobytes()
    path.write_bytes(gzip.compress(data) if path.suffix == ".gz" else data)


@pytest.mark.parametrize("kind", ["folder", "npz", "idx", "idx.gz", "idx folder", "tensor"])
def test_the_same_images_however_they_are_stored(kind, tmp_path):
    given = images(5)
    if kind == "folder":
        save_images(given, tmp_path / "d")
        named = tmp_path / "d"
    elif kind == "npz":
        np.savez(tmp_path / "d.npz", arr_0=given.numpy())
        named = str(tmp_path / "d.npz")
    elif kind.startswith("idx"):
        # The test images and the labels beside them are not what is trained on.
        write_idx(tmp_path / "t10k-images-idx3-ubyte.gz", images(3))
        named = tmp_path / ("train-images-idx3-ubyte" + (".gz" if "gz" in kind else ""))
        write_idx(named, given[..., 0])
        named = tmp_path if kind == "idx folder" else named
    else:
        named = given
    found = open_images(named)
    assert len(found) == 5 and found.shape == (8, 8, 1)
    assert torch.equal(torch.stack([found.at(i) for i in range(5)]), given)


def test_pictures_are_samples_in_minus_one_to_one_padded_with_black():
    given = images(3, size=4)
    drawn = Pictures(open_images(given), (1, 7, 8)).draw(5, slice(1, 4), "key")
    assert drawn.shape == (3, 1, 7, 8) and drawn.dtype == torch.float32
    assert (drawn[:, :, 0] == -1).all() and (drawn[:, :, 5:] == -1).all() and (drawn[..., :2] == -1).all()
    inner = ((drawn[:, :, 1:5, 2:6] + 1) * 127.5).round()
    assert all(any(torch.equal(part[0], whole[..., 0].float()) for whole in given) for part in inner)
    assert torch.equal(drawn, Pictures(open_images(given), (1, 7, 8)).draw(5, slice(None), "key")[1:4])


@pytest.mark.parametrize(
    ("shape", "line"),
    [
        ((3, 8, 8), r"the given images: images of 8x8x1 \(height, width, channels\), the model takes 8x8x3"),
        ((1, 4, 4), "the model takes 4x4x1: resize them"),
        ((3, 16), r"the given images: images are no samples of \(3, 16\): train this model without --data"),
        ((1, 2, 8, 8), r"no samples of \(1, 2, 8, 8\)"),
    ],
)
def test_what_the_model_does_not_take(shape, line):
    with pytest.raises(InputError, match=line):
        Pictures(open_images(images()), shape)


def test_files_are_not_padded(tmp_path):
    save_images(images(2), tmp_path / "d")
    with pytest.raises(InputError, match="resize them"):
        Pictures(open_images(tmp_path / "d"), (1, 16, 16))


def test_no_images_mixed_sizes_and_other_things(tmp_path, monkeypatch):
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match="no images in"):
        open_images(tmp_path / "empty")
    for side in (8, 9):
        Image.new("L", (side, 8)).save(tmp_path / "empty" / f"{side}.png")
    with pytest.raises(InputError, match="images of one size"):
        open_images(tmp_path / "empty")
    with pytest.raises(InputError, match="no data at"):
        open_images(tmp_path / "none")
    (tmp_path / "none-idx3-ubyte").write_bytes(b"".join(n.to_bytes(4, "big") for n in (2051, 0, 8, 8)))
    with pytest.raises(InputError, match="no idx file of images"):
        open_images(tmp_path / "none-idx3-ubyte")
    (tmp_path / "x-idx3-ubyte").write_bytes(b"\0" * 40)
    with pytest.raises(InputError, match="no idx file of images"):
        open_images(tmp_path / "x-idx3-ubyte")
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(InputError, match=r"pip install 'tempoquant\[train\]'"):
        open_images("hf:cifar10")


def test_a_dataset_of_the_library_by_name_and_column(monkeypatch):
    class Kind:
        pass

    given = images(3)
    table = [{"label": i, "picture": Image.fromarray(given[i, ..., 0].numpy())} for i in range(3)]
    found = type("Table", (list,), {"features": {"label": None, "picture": Kind()}})(table)
    asked = []
    library = SimpleNamespace(Image=Kind, load_dataset=lambda name, split: asked.append((name, split)) or found)
    monkeypatch.setitem(sys.modules, "datasets", library)
    for named in ("hf:some/set", "hf:some/set:picture"):
        opened = open_images(named)
        assert torch.equal(torch.stack([opened.at(i) for i in range(3)]), given)
    assert asked == [("some/set", "train")] * 2
    with pytest.raises(InputError, match="no column of images 'other': it has label, picture"):
        open_images("hf:some/set:other")
