"""Damaged evidence of a folder: one line that names the file and the entry."""

import json
import math
import shutil

import pytest

from tempoquant.errors import FormatError
from tempoquant.report.entries import read_entries
from tempoquant.report.evaluations import check_evidence

WHOLE = {
    "psnr": {"per_image": [20.0, None]},
    "ssim": None,
    "data_range": 2.0,
    "distribution": {"kid": {"name": "KID", "value": 0.1, "std": 0.01}, "generated": 512, "extractor": {"name": "x"}},
    "requirements": [{"text": "psnr>=28", "value": None, "met": True, "by": 0.0}],
}


def test_whole_evidence_passes():
    for evidence in ({}, {"evaluation": WHOLE, "conditioning": {"guidance_scale": 7, "prompt": ["a"]}}):
        check_evidence(evidence, "out/tempoquant.json")


@pytest.mark.parametrize(
    "damage",
    [
        {"evaluation": []},
        {"evaluation": {**WHOLE, "psnr": 3.0}},
        {"evaluation": {**WHOLE, "psnr": {"per_image": ["20"]}}},
        {"evaluation": {**WHOLE, "ssim": {"per_image": [math.nan]}}},
        {"evaluation": {**WHOLE, "data_range": "2"}},
        {"evaluation": {**WHOLE, "distribution": {"kid": {"value": 0.1}}}},
        {"evaluation": {**WHOLE, "distribution": {"kid": {"name": "KID", "value": "low"}}}},
        {"evaluation": {**WHOLE, "requirements": [{"text": "psnr>=28"}]}},
        {"conditioning": {"guidance_scale": "much"}},
        {"files": ["a"]},
        {"model": 3},
    ],
)
def test_damaged_evidence_is_refused(damage):
    with pytest.raises(FormatError, match=rf"^out/tempoquant\.json: {next(iter(damage))}") as refusal:
        check_evidence(damage, "out/tempoquant.json")
    assert "\n" not in str(refusal.value)


def test_a_page_refuses_it(folders, tmp_path):
    shutil.copytree(folders[0], tmp_path / "out")
    path = tmp_path / "out" / "tempoquant.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "evaluation": {"psnr": 3}}))
    with pytest.raises(FormatError, match=r"tempoquant\.json: evaluation\.psnr = 3"):
        read_entries([tmp_path / "out"])
