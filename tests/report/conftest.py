"""Two models and the page about them, made once for all tests of the room."""

from pathlib import Path

import pytest

import tempoquant
from tempoquant import diagnose
from tempoquant.report import write_report
from tiny import small_recipe, unet_pipeline


@pytest.fixture(scope="session")
def folders(tmp_path_factory) -> list[Path]:
    """Two diagnosed folders of rtn, at 8 and 3 bits."""
    place = tmp_path_factory.mktemp("models")
    pipe = unet_pipeline()
    for bits in (8, 3):
        out = place / f"w{bits}"
        quantized = tempoquant.quantize(pipe, small_recipe("rtn", weights=bits), out=out)
        diagnose(quantized, pipe, samples=3, ranking_samples=1, batch_size=3, out=out / "diagnosis")
    return [place / "w8", place / "w3"]


@pytest.fixture(scope="session")
def page(folders, tmp_path_factory) -> Path:
    return write_report(folders, tmp_path_factory.mktemp("page") / "report.html")
