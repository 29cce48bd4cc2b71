import numpy as np
import pytest
import torch
from PIL import Image

from tempoquant.errors import InputError
from tempoquant.evaluation import save_grid, save_images


def flat(count, value, channels=1):
    return torch.full((count, 32, 32, channels), value, dtype=torch.uint8)


def test_save_images_keeps_every_pixel(tmp_path):
    images = torch.randint(0, 256, (2, 5, 7, 3)).to(torch.uint8)
    paths = save_images(images, tmp_path / "a" / "b")
    assert [path.name for path in paths] == ["00000.png", "00001.png"]
    assert np.array_equal(np.asarray(Image.open(paths[1])), images[1].numpy())
    assert sorted(p.name for p in (tmp_path / "a" / "b").iterdir()) == ["00000.png", "00001.png"]


def test_grid_is_nearly_square_and_enlarges_small_images(tmp_path):
    images = torch.cat([flat(1, 10 * i) for i in range(5)])
    sheet = np.asarray(Image.open(save_grid(images, tmp_path / "g.png")))
    # Three columns and two rows of 64 pixels, gaps of 4.
    assert sheet.shape == (4 + 2 * 68, 4 + 3 * 68, 3)
    assert sheet[4 + 32, 4 + 68 + 32].tolist() == [10, 10, 10]
    assert sheet[4 + 68 + 32, 4 + 32].tolist() == [30, 30, 30]
    assert sheet[-10, -10].tolist() == [255, 255, 255]
    assert np.asarray(Image.open(save_grid(images, tmp_path / "h.png", columns=5))).shape[:2] == (72, 4 + 5 * 68)


def test_labelled_rows_have_their_label_on_the_left(tmp_path):
    rows = {"full precision": flat(3, 0), "W4A8": flat(2, 200)}
    sheet = np.asarray(Image.open(save_grid(rows, tmp_path / "rows.png")))
    margin = sheet.shape[1] - (4 + 3 * 68)
    assert margin > 80
    for top in (4, 72):
        assert (sheet[top : top + 64, :margin] < 128).any()
    assert sheet[36, margin + 36].tolist() == [0, 0, 0] and sheet[104, margin + 36].tolist() == [200, 200, 200]


def test_a_label_is_one_line(tmp_path):
    many, one = (save_grid({label: flat(1, 0)}, tmp_path / "g.png").read_bytes() for label in ("a\nb\t c", "a b c"))
    assert many == one
    save_grid({"\x00\x1b日本$\\frac{$": flat(1, 0)}, tmp_path / "g.png")


def test_bad_input(tmp_path):
    with pytest.raises(InputError, match=r"g.jpg: a grid of images is written to a .png file"):
        save_grid(flat(1, 0), tmp_path / "g.jpg")
    with pytest.raises(InputError, match=r"uint8 is needed"):
        save_images(flat(1, 0).float(), tmp_path)
    with pytest.raises(InputError, match=r"uint8 is needed"):
        save_grid(flat(1, 0)[:0], tmp_path / "g.png")
    with pytest.raises(InputError, match="no images"):
        save_grid({}, tmp_path / "g.png")
