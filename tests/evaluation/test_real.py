"""References as users name them, and the cache of their statistics."""

import numpy as np
import pytest
import torch
from PIL import Image

from corners import Corners, pictures
from tempoquant.errors import FormatError, InputError
from tempoquant.evaluation import gather, load_statistics, open_reference, save_images, save_statistics
from tempoquant.evaluation.images import DatasetImages, FolderImages, TensorImages
from tempoquant.evaluation.statistics import cached


def joined(images):
    return torch.cat(list(images.batches(3)))


def same(a, b):
    pairs = [(x, y) for kind in a.gaussians for x, y in ((a.gaussians[kind], b.gaussians[kind]),)]
    return all(torch.equal(x.mean, y.mean) and torch.equal(x.covariance, y.covariance) for x, y in pairs)


def test_every_source_gives_the_same_pixels(tmp_path):
    images = pictures(7, channels=3, size=8)
    save_images(images[:4], tmp_path / "set" / "a")
    save_images(images[4:], tmp_path / "set" / "b")
    np.savez(tmp_path / "set.npz", arr_0=images.numpy())
    pairs = [(Image.fromarray(image.numpy()), 5) for image in images]
    sources = (tmp_path / "set", tmp_path / "set.npz", images, pairs, list(images))
    for source in sources:
        found = open_reference(source).images
        assert found.shape == (8, 8, 3) and len(found) == 7
        assert torch.equal(joined(found), images)


def test_grey_files_are_grey_unless_one_has_colours(tmp_path):
    save_images(pictures(3, size=8), tmp_path)
    np.savez(tmp_path / "grey.npz", pictures(3, size=8)[..., 0].numpy())
    assert FolderImages(tmp_path).shape == open_reference(tmp_path / "grey.npz").images.shape == (8, 8, 1)
    Image.new("RGB", (8, 8), (9, 8, 7)).save(tmp_path / "z.png")
    found = FolderImages(tmp_path)
    assert found.shape == (8, 8, 3)
    assert joined(found)[-1, 0, 0].tolist() == [9, 8, 7]
    assert torch.equal(joined(found)[:3], pictures(3, size=8).expand(-1, -1, -1, 3))


def test_bad_sources(tmp_path):
    save_images(pictures(2, size=8), tmp_path / "set")
    Image.new("L", (9, 8)).save(tmp_path / "set" / "x.png")
    with pytest.raises(InputError, match=r"x.png is 9x8 and 00000.png 8x8"):
        open_reference(tmp_path / "set")
    (tmp_path / "set" / "x.png").write_bytes(b"no picture")
    with pytest.raises(InputError, match=r"x.png cannot be read as an image"):
        open_reference(tmp_path / "set")
    (tmp_path / "empty").mkdir()
    np.savez(tmp_path / "float.npz", arr_0=np.zeros((2, 8, 8, 3)))
    np.savez(tmp_path / "object.npz", arr_0=np.array([{}], dtype=object))
    np.savez(tmp_path / "other.npz", x=np.zeros(2))
    np.savez(tmp_path / "half.npz", mu=np.zeros(2), sigma=np.zeros((2, 3)))
    for name, said in (
        ("none", "no such file or folder"),
        ("empty", "no images in"),
        ("float.npz", r"is float64 \(2, 8, 8, 3\)"),
        ("object.npz", "cannot be read"),
        ("other.npz", "holds x: arr_0"),
        ("half.npz", r"mu and sigma are \(2,\) and \(2, 3\)"),
        ("set/00000.png", "a folder of images, a .npz or a .safetensors"),
    ):
        with pytest.raises(InputError, match=said):
            open_reference(tmp_path / name)
    with pytest.raises(InputError, match="a int is no reference"):
        open_reference(3)
    with pytest.raises(InputError, match=r"torch.float32 \(2, 8, 8, 1\)"):
        open_reference(torch.zeros(2, 8, 8, 1))
    with pytest.raises(InputError, match=r"image 1 is \(9, 9, 1\), and the first \(8, 8, 1\)"):
        joined(DatasetImages([pictures(1, size=8)[0], pictures(1, size=9)[0]]))


def test_statistics_of_a_stream_are_those_of_the_whole():
    images = pictures(90)
    whole = gather([images], Corners(), rows=["pooled"])
    parts = gather(images.split(7), Corners(), rows=["pooled"])
    x, y = images[:, :2, :2, 0].flatten(1).double(), images[:, -2:, -2:, 0].flatten(1).double()
    for kind, wanted in (("pooled", x), ("spatial", y)):
        for found in (whole.gaussians[kind], parts.gaussians[kind]):
            np.testing.assert_allclose(found.mean, wanted.mean(0), rtol=1e-12)
            np.testing.assert_allclose(found.covariance, np.cov(wanted.numpy(), rowvar=False), rtol=1e-10)
    assert torch.equal(parts.rows["pooled"], x.float()) and parts.count == 90
    with pytest.raises(InputError, match="at least two images are needed, not 1"):
        gather([images[:1]], Corners())


def test_the_cache_is_keyed_by_content_and_extractor(tmp_path):
    images, extractor, cache = TensorImages(pictures(9)), Corners(), tmp_path / "cache"
    first = cached(images, extractor, cache=cache)
    assert extractor.seen == 9 and len(list(cache.iterdir())) == 1
    again = cached(TensorImages(pictures(9)), extractor, cache=cache)
    assert extractor.seen == 9 and same(first, again) and again.made == first.made
    cached(TensorImages(pictures(9, seed=1)), extractor, cache=cache)
    extractor.digest = "d1" * 32
    cached(images, extractor, cache=cache)
    cached(images, extractor, rows=["pooled"], cache=cache)
    assert extractor.seen == 36 and len(list(cache.iterdir())) == 4
    assert cached(images, extractor, cache=None).made.sha256 == "d1" * 32 and extractor.seen == 45
    file = min(cache.iterdir())
    file.write_bytes(file.read_bytes()[:-8])
    before = file.read_bytes()
    with pytest.raises(FormatError, match="holds no statistics of this package, or is damaged"):
        for seed in (0, 1):
            for digest in ("c0", "d1"):
                extractor.digest = digest * 32
                for rows in ((), ("pooled",)):
                    cached(TensorImages(pictures(9, seed=seed)), extractor, rows=rows, cache=cache)
    assert file.read_bytes() == before


def test_a_cached_file_of_another_name_is_refused(tmp_path):
    cached(TensorImages(pictures(9)), Corners(), cache=tmp_path)
    (name,) = tmp_path.iterdir()
    foreign = gather([pictures(9, seed=1)], Corners())
    name.unlink()
    save_statistics(foreign, name)
    with pytest.raises(FormatError, match="other statistics than its name says"):
        cached(TensorImages(pictures(9)), Corners(), cache=tmp_path)


def test_saved_statistics_come_back_and_are_not_replaced(tmp_path):
    made = gather([pictures(9)], Corners(), rows=["pooled"], source="mine")
    save_statistics(made, tmp_path / "s.safetensors")
    save_statistics(gather([pictures(9, seed=1)], Corners()), tmp_path / "s.safetensors")
    found = load_statistics(tmp_path / "s.safetensors")
    assert same(found, made) and found.made == made.made and found.source == "mine" and found.count == 9
    assert torch.equal(found.rows["pooled"], made.rows["pooled"])
    assert [path.name for path in tmp_path.iterdir()] == ["s.safetensors"]
