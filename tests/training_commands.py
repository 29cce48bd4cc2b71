"""`tempoquant train` in the place of a tiny model and images for it."""

import pytest

from tempoquant.evaluation import save_images
from tiny import unet_pipeline
from training_models import images

SHORT = ("--samples", "2", "--steps", "4", "--train-steps", "3", "--batch", "4")


@pytest.fixture
def place(tmp_path, monkeypatch):
    """A working folder with a model and images for it."""
    monkeypatch.chdir(tmp_path)
    unet_pipeline().save_pretrained(tmp_path / "model")
    save_images(images(6), tmp_path / "images")
    return tmp_path
