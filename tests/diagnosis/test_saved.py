"""Saved diagnoses whose entries or tensors are damaged: one line that names the file and the entry."""

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from tempoquant import Diagnosis, diagnose
from tempoquant.checkpoint.evidence import file_hash
from tempoquant.errors import FormatError
from tiny import bare_denoiser

GONE = object()


@pytest.fixture(scope="module")
def saved(tmp_path_factory) -> tuple[dict[str, Any], dict[str, torch.Tensor]]:
    """What ``diagnosis.json`` and ``diagnosis.safetensors`` of a whole diagnosis hold."""
    place = tmp_path_factory.mktemp("whole") / "d"
    found = diagnose(bare_denoiser(seed=1), bare_denoiser(), samples=2, steps=4, ranking_samples=1, out=place)
    assert found.culprits and found.step_ranges
    return json.loads((place / "diagnosis.json").read_text()), load_file(place / "diagnosis.safetensors")


def write(folder: Path, plain: dict[str, Any], tensors: dict[str, torch.Tensor]) -> Path:
    """A folder of these, with the hash that fits."""
    folder.mkdir()
    save_file(tensors, folder / "diagnosis.safetensors")
    text = json.dumps({**plain, "tensors": file_hash(folder / "diagnosis.safetensors")})
    (folder / "diagnosis.json").write_text(text)
    return folder


def changed(plain: dict[str, Any], path: str, value: Any) -> dict[str, Any]:
    """A copy with one entry, named by its path, replaced or gone."""
    copy = json.loads(json.dumps(plain))
    *parents, last = path.split(".")
    place = copy
    for part in parents:
        place = place[int(part)] if isinstance(place, list) else place[part]
    last = int(last) if isinstance(place, list) else last
    if value is GONE:
        del place[last]
    else:
        place[last] = value
    return copy


ENTRIES = [
    ("facts", []),
    ("facts.quantized", GONE),
    ("facts.quantized.name", 3),
    ("facts.quantized.name", None),
    ("facts.quantized.size", {"ratio": 2.0}),
    ("facts.quantized.size", {"total": -1, "ratio": 2.0}),
    ("facts.quantized.size", {"total": 1, "ratio": math.inf}),
    ("facts.quantized.size", {"total": 1, "ratio": "2"}),
    ("facts.quantized.size", {"total": 10**400, "ratio": 2.0}),
    ("facts.quantized.recipe", {"weights": {"bits": 4}}),
    ("facts.quantized.files", []),
    ("facts.reference.bytes", math.nan),
    ("facts.reference.hash", GONE),
    ("facts.speed", 0),
    ("facts.speed", math.nan),
    ("facts.speed", "fast"),
    ("facts.samples", 2.5),
    ("facts.schedule", "ddim"),
    ("facts.schedule.steps", None),
    ("facts.temporal_layers", 4),
    ("facts.temporal_layers", [4]),
    ("facts.versions", None),
    ("facts.machine", {"cpu": {}}),
    ("facts.options", {"layer": {}}),
    ("facts.options", {"reference": 3}),
    ("facts.conditioning", {"guidance_scale": "much"}),
    ("facts.conditioning", {"prompt": [1]}),
    ("facts.data_range", math.inf),
    ("projections", "emb"),
    ("units", [1]),
    ("culprits", [{"name": "a"}]),
    ("culprits.0.share", math.nan),
    ("culprits.0.error", math.inf),
    ("step_ranges", []),
    ("policy", ["first"]),
]


@pytest.mark.parametrize(("path", "value"), ENTRIES)
def test_damaged_entries(path, value, saved, tmp_path):
    folder = write(tmp_path / "d", changed(saved[0], path, value), saved[1])
    with pytest.raises(FormatError, match=r"diagnosis\.json") as refusal:
        Diagnosis.load(folder)
    assert "\n" not in str(refusal.value) and path.split(".")[0] in str(refusal.value)


@pytest.mark.parametrize(
    ("name", "damage", "said"),
    [
        ("psnr", lambda x: x[:1], r"psnr is \(1,\): \(2,\) is needed"),
        ("psnr", lambda x: x * math.nan, "psnr holds NaN or infinity"),
        ("psnr", lambda x: x.half(), "psnr is torch.float16: torch.float32 or torch.float64 is needed"),
        ("timesteps", lambda x: x[:0], r"timesteps is \(0,\): \(1,\) is needed"),
        ("timesteps", lambda x: x.double() * math.inf, "timesteps holds NaN or infinity"),
        ("noise_sqnr", lambda x: x[:3], r"noise_sqnr is \(3,\): \(4,\) is needed"),
        ("unit_cosine", lambda x: x.T.contiguous(), "unit_cosine is "),
        ("activations", lambda x: x[..., :5].contiguous(), r"activations is \(.*, 5\): \(.*, 7\) is needed"),
        ("deviations", lambda x: x[0].clone(), r"deviations is \(4,\): \(3, 4\) is needed"),
        ("deviations", lambda x: x * math.inf, "deviations holds NaN or infinity"),
        ("images", lambda x: x[:, :4].contiguous(), r"images is \(2, 4, 8, 1\): \(2, 8, 8, 1\) is needed"),
        ("images", lambda x: x.float(), "images is torch.float32: torch.uint8 is needed"),
        ("frames", lambda x: x[:, :1].contiguous(), "frames is "),
        ("nearest", lambda x: x + 9, "nearest holds values outside 0 to 3"),
        ("frame_steps", lambda x: x - 9, "frame_steps holds values outside 0 to 3"),
    ],
)
def test_damaged_tensors(name, damage, said, saved, tmp_path):
    folder = write(tmp_path / "d", saved[0], {**saved[1], name: damage(saved[1][name])})
    with pytest.raises(FormatError, match=rf"diagnosis\.safetensors: {said}"):
        Diagnosis.load(folder)


def test_tensors_that_are_missing_or_more(saved, tmp_path):
    plain, tensors = saved
    some = {name: value for name, value in tensors.items() if name != "psnr"}
    for folder, given, said in (
        ("a", some, "psnr is missing"),
        ("b", {**tensors, "x": torch.zeros(1)}, "x is unknown"),
    ):
        with pytest.raises(FormatError, match=f"tensor {said}"):
            Diagnosis.load(write(tmp_path / folder, plain, given))


@pytest.mark.parametrize("text", ["[]", "3", '"d"', "null", '{"format_version": Infinity, "tensors": ""}'])
def test_other_documents(text, tmp_path):
    (tmp_path / "diagnosis.json").write_text(text)
    with pytest.raises(FormatError, match=r"diagnosis\.json is no diagnosis that this version reads"):
        Diagnosis.load(tmp_path)


def test_text_that_is_no_text(saved, tmp_path):
    folder = write(tmp_path / "d", changed(saved[0], "layers.0", "a\ud800"), saved[1])
    with pytest.raises(FormatError, match=r"diagnosis\.json: '\\ud800' is no character"):
        Diagnosis.load(folder)


def test_what_is_not_measured_may_be_missing(saved, tmp_path):
    plain, tensors = saved
    older = {**plain["facts"], "quantized": {**plain["facts"]["quantized"], "size": None}}
    for name in ("options", "conditioning", "data_range"):
        del older[name]
    unseen = {name: tensors[name] * math.nan for name in ("ssim", "activations", "unit_cosine", "intervals")}
    equal = {name: tensors[name] + math.inf for name in ("psnr", "noise_sqnr", "unit_sqnr")}
    found = Diagnosis.load(write(tmp_path / "d", {**plain, "facts": older}, {**tensors, **unseen, **equal}))
    assert found.facts == older and bool(found.psnr.isinf().all())
