"""References as users name them, and the cache of their statistics."""

import io
import os
import zlib

import numpy as np
import pytest
import torch
from PIL import Image

from corners import Corners, pictures
from tempoquant.errors import FormatError, InputError
from tempoquant.evaluation import compute_statistics, load_statistics, open_reference, save_images, save_statistics
from tempoquant.evaluation.images import DatasetImages, FolderImages, TensorImages
from tempoquant.evaluation.statistics import cached_statistics


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
    np.savez(tmp_path / "words.npz", mu=np.array(["a"]), sigma=np.array([["a"]]))
    np.savez(tmp_path / "nan.npz", mu=np.zeros(2), sigma=np.full((2, 2), np.nan))
    with (tmp_path / "array.npz").open("wb") as file:
        np.save(file, np.zeros(2))
    for name, said in (
        ("none", "no such file or folder"),
        ("empty", "no images in"),
        ("float.npz", r"is float64 \(2, 8, 8, 3\)"),
        ("object.npz", "cannot be read"),
        ("other.npz", "holds x: arr_0"),
        ("half.npz", r"mu and sigma are \(2,\) and \(2, 3\)"),
        ("words.npz", "mu .* no finite numbers"),
        ("nan.npz", "sigma .* no finite numbers"),
        ("array.npz", "cannot be read"),
        ("set/00000.png", "a folder of images, a .npz or a .safetensors"),
    ):
        with pytest.raises(InputError, match=said):
            open_reference(tmp_path / name)
    with pytest.raises(InputError, match="a int is no reference"):
        open_reference(3)
    with pytest.raises(InputError, match=r"torch.float32 \(2, 8, 8, 1\)"):
        open_reference(torch.zeros(2, 8, 8, 1))
    with pytest.raises(InputError, match=r"image 1 is \(9, 9, 1\) and the first \(8, 8, 1\): one size"):
        joined(DatasetImages([pictures(1, size=8)[0], pictures(1, size=9)[0]]))


def png(width: int, height: int, data: bytes = b"") -> bytes:
    """A PNG of a grey image whose header says this size."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        return len(content).to_bytes(4, "big") + kind + content + zlib.crc32(kind + content).to_bytes(4, "big")

    header = width.to_bytes(4, "big") + height.to_bytes(4, "big") + bytes([8, 0, 0, 0, 0])
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(data)) + chunk(b"IEND", b"")


def written(image: Image.Image, kind: str, **options: object) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


GREY = Image.effect_noise((64, 64), 60)
DAMAGED = {
    "20000x20000": ("x.png", png(20000, 20000), "exceeds limit"),
    "greatest PNG": ("x.png", png(2**31 - 1, 2**31 - 1), "exceeds limit"),
    "no pixels": ("x.png", png(64, 64), "truncated"),
    "few pixels": ("x.png", png(64, 64, b"\0" * 99), "truncated"),
    "half a PNG": ("x.png", written(GREY, "PNG")[:2000], "truncated"),
    "half a JPEG": ("x.jpg", written(GREY, "JPEG")[:900], "truncated"),
    "half a TIFF": ("x.tif", written(GREY, "TIFF", compression="tiff_lzw")[:900], ""),
    "header of a PPM": ("x.ppm", b"P5 99999999999 16 255 ", "Token too long"),
    "nothing": ("x.png", b"", "cannot identify"),
    "16 bits": ("x.png", written(Image.new("I;16", (64, 64)), "PNG"), r"mode I;16.*8 bits a channel are needed"),
    "floats": ("x.tif", written(Image.new("F", (64, 64)), "TIFF"), "mode F: 8 bits"),
}


@pytest.mark.parametrize(("name", "content", "said"), DAMAGED.values(), ids=DAMAGED)
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_damaged_images_are_named_before_they_are_used(name, content, said, tmp_path):
    GREY.save(tmp_path / "a.png")
    (tmp_path / name).write_bytes(content)
    with pytest.raises(InputError, match=rf"{tmp_path / name} .*{said}") as refusal:
        open_reference(tmp_path)
    assert "\n" not in str(refusal.value)


def test_what_is_no_file_is_no_image(tmp_path):
    GREY.save(tmp_path / "a.png")
    (tmp_path / "folder.png").mkdir()
    assert len(FolderImages(tmp_path)) == 1
    os.mkfifo(tmp_path / "pipe.png")
    with pytest.raises(InputError, match=r"pipe.png cannot be read as an image: it is no file"):
        FolderImages(tmp_path)


def test_of_many_images_a_damaged_one_is_named_when_it_is_read(tmp_path, monkeypatch):
    monkeypatch.setattr("tempoquant.evaluation.images.EAGER_PIXELS", 0)
    GREY.save(tmp_path / "a.png")
    (tmp_path / "b.png").write_bytes(png(64, 64))
    found = FolderImages(tmp_path)
    with pytest.raises(InputError, match=r"b.png cannot be read as an image: .*truncated"):
        joined(found)


def test_an_item_that_a_dataset_cannot_read():
    class Items(list):
        def __getitem__(self, index):
            if index == 1:
                raise Image.DecompressionBombError("two\nlines")
            return super().__getitem__(index)

    found = DatasetImages(Items(pictures(2, size=8)), "hf:mine")
    with pytest.raises(InputError, match="hf:mine: image 1 cannot be read: two lines"):
        found.at(1)


def test_statistics_of_a_stream_are_those_of_the_whole():
    images = pictures(90)
    whole = compute_statistics([images], Corners(), rows=["pooled"])
    parts = compute_statistics(images.split(7), Corners(), rows=["pooled"])
    x, y = images[:, :2, :2, 0].flatten(1).double(), images[:, -2:, -2:, 0].flatten(1).double()
    for kind, wanted in (("pooled", x), ("spatial", y)):
        for found in (whole.gaussians[kind], parts.gaussians[kind]):
            np.testing.assert_allclose(found.mean, wanted.mean(0), rtol=1e-12)
            np.testing.assert_allclose(found.covariance, np.cov(wanted.numpy(), rowvar=False), rtol=1e-10)
    assert torch.equal(parts.rows["pooled"], x.float()) and parts.count == 90
    with pytest.raises(InputError, match="at least two images are needed, not 1"):
        compute_statistics([images[:1]], Corners())


def test_the_cache_is_keyed_by_content_and_extractor(tmp_path):
    images, extractor, cache = TensorImages(pictures(9)), Corners(), tmp_path / "cache"
    first = cached_statistics(images, extractor, cache=cache)
    assert extractor.seen == 9 and len(list(cache.iterdir())) == 1
    again = cached_statistics(TensorImages(pictures(9)), extractor, cache=cache)
    assert extractor.seen == 9 and same(first, again) and again.provenance == first.provenance
    cached_statistics(TensorImages(pictures(9, seed=1)), extractor, cache=cache)
    extractor.digest = "d1" * 32
    cached_statistics(images, extractor, cache=cache)
    cached_statistics(images, extractor, rows=["pooled"], cache=cache)
    assert extractor.seen == 36 and len(list(cache.iterdir())) == 4
    assert cached_statistics(images, extractor, cache=None).provenance.sha256 == "d1" * 32 and extractor.seen == 45
    file = min(cache.iterdir())
    file.write_bytes(file.read_bytes()[:-8])
    before = file.read_bytes()
    with pytest.raises(FormatError, match="holds no statistics of this package, or is damaged"):
        for seed in (0, 1):
            for digest in ("c0", "d1"):
                extractor.digest = digest * 32
                for rows in ((), ("pooled",)):
                    cached_statistics(TensorImages(pictures(9, seed=seed)), extractor, rows=rows, cache=cache)
    assert file.read_bytes() == before


def test_a_cached_file_of_another_name_is_refused(tmp_path):
    cached_statistics(TensorImages(pictures(9)), Corners(), cache=tmp_path)
    (name,) = tmp_path.iterdir()
    foreign = compute_statistics([pictures(9, seed=1)], Corners())
    name.unlink()
    save_statistics(foreign, name)
    with pytest.raises(FormatError, match="other statistics than its name says"):
        cached_statistics(TensorImages(pictures(9)), Corners(), cache=tmp_path)


def test_saved_statistics_come_back_and_are_not_replaced(tmp_path):
    made = compute_statistics([pictures(9)], Corners(), rows=["pooled"], source="mine")
    save_statistics(made, tmp_path / "s.safetensors")
    save_statistics(compute_statistics([pictures(9, seed=1)], Corners()), tmp_path / "s.safetensors")
    found = load_statistics(tmp_path / "s.safetensors")
    assert same(found, made) and found.provenance == made.provenance and found.source == "mine" and found.count == 9
    assert torch.equal(found.rows["pooled"], made.rows["pooled"])
    assert [path.name for path in tmp_path.iterdir()] == ["s.safetensors"]
