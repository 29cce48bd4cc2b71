"""What commands write, beside files of the user's: every one of these is there, byte for byte, at the end."""

import json
import shutil
import subprocess
from pathlib import Path

import pytest

import tempoquant
from command_line import run
from limits import file_size_limit, umask
from tempoquant.errors import FormatError, InputError
from tempoquant.outputs import MARKER, Kind, new_staging, writing
from tempoquant.progress import Silent
from tiny import small_recipe, unet_pipeline

RECIPE = small_recipe("rtn")


@pytest.fixture(scope="module")
def saved(tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("saved") / "out"
    tempoquant.quantize(unet_pipeline(), RECIPE, out=out)
    return out


@pytest.fixture
def thesis(tmp_path):
    """Folders of the user's with the names that outputs' helpers once had; checked at the end of the test."""
    names = ["out.old", "out.partial", "out.tmp", "job.old"]
    for name in names:
        (tmp_path / name / "units").mkdir(parents=True)
        (tmp_path / name / "units" / "chapter.txt").write_text("years")
    yield tmp_path
    for name in names:
        assert (tmp_path / name / "units" / "chapter.txt").read_text() == "years"


def export(quantized: tempoquant.QuantizedPipeline, out: Path, **options) -> None:
    """To the target that takes least time."""
    tempoquant.export(quantized, out, "onnx", **options)


def quantize_to(out: Path, **options) -> None:
    tempoquant.quantize(unet_pipeline(), RECIPE, out=out, **options)


def test_saving_and_exporting_spare_neighbours(saved, thesis):
    quantized = tempoquant.load(saved)
    for overwrite in (False, True):
        quantized.save_pretrained(thesis / "out", overwrite=overwrite)
    shutil.rmtree(thesis / "out")
    for overwrite in (False, True):
        export(quantized, thesis / "out", overwrite=overwrite)


def test_a_place_of_unfinished_work_that_is_the_users_is_refused(thesis):
    for overwrite in (False, True):
        with pytest.raises(InputError, match=r"out\.partial exists and holds no unfinished work"):
            quantize_to(thesis / "out", overwrite=overwrite)
    (thesis / "out.partial" / "job.json").write_text("{}")
    with pytest.raises(InputError, match=r"chapter\.txt is no part of unfinished work"):
        quantize_to(thesis / "out", overwrite=True)


def test_exporting_and_diagnosing_leave_unfinished_work_alone(saved, tmp_path):
    work = tmp_path / "job.partial"
    (work / "units").mkdir(parents=True)
    (work / "job.json").write_text("{}")
    (work / "units" / "0.safetensors").write_bytes(b"hours")
    quantized = tempoquant.load(saved)
    export(quantized, tmp_path / "job")
    shutil.rmtree(tmp_path / "job")
    diagnosed = {"samples": 1, "ranking_samples": 0, "out": tmp_path / "job"}
    tempoquant.diagnose(quantized, unet_pipeline(), **diagnosed)
    tempoquant.diagnose(quantized, unet_pipeline(), **diagnosed, overwrite=True)
    assert (work / "units" / "0.safetensors").read_bytes() == b"hours"


def test_a_file_of_the_users_in_a_quantized_folder_is_refused_by_name(saved, tmp_path):
    shutil.copytree(saved, tmp_path / "out")
    (tmp_path / "out" / "unet" / "notes.txt").write_text("years")
    quantized = tempoquant.load(saved)
    with pytest.raises(InputError, match=r"unet/notes\.txt, not written by tempoquant"):
        quantized.save_pretrained(tmp_path / "out", overwrite=True)
    with pytest.raises(InputError, match=r"unet/notes\.txt, not written by tempoquant"):
        quantize_to(tmp_path / "out", overwrite=True)
    assert (tmp_path / "out" / "unet" / "notes.txt").read_text() == "years"


def test_a_folder_of_another_tool_is_not_taken_for_ours(saved, tmp_path):
    (tmp_path / "theirs" / "unet").mkdir(parents=True)
    config = tmp_path / "theirs" / "unet" / "config.json"
    config.write_text('{"quantization_config": {"quant_method": "gptq"}}')
    with pytest.raises(InputError, match=r"unet/config\.json, not written by tempoquant"):
        tempoquant.load(saved).save_pretrained(tmp_path / "theirs", overwrite=True)
    assert config.exists()


def test_an_output_of_another_kind_is_not_replaced(saved, tmp_path):
    shutil.copytree(saved, tmp_path / "out")
    quantized = tempoquant.load(saved)
    with pytest.raises(InputError, match=r"another output \(quantized folder\): choose another folder"):
        export(quantized, tmp_path / "out", overwrite=True)
    with pytest.raises(InputError, match=r"another output \(quantized folder\): choose another folder"):
        tempoquant.diagnose(quantized, unet_pipeline(), out=tmp_path / "out", overwrite=True)


def test_a_run_holds_its_output_from_the_beginning(tmp_path):
    class Meanwhile:
        """Progress that starts a second run into the same folder once the first one works."""

        def stage(self, name: str, total: int):
            with pytest.raises(InputError, match="another run is writing to"):
                quantize_to(tmp_path / "out", overwrite=True)
            return Silent().stage(name, total)

    quantize_to(tmp_path / "out", progress=Meanwhile())
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
    tempoquant.load(tmp_path / "out")


def test_all_files_of_a_folder_have_the_umasks_mode(tmp_path):
    with umask(0o022):
        quantize_to(tmp_path / "out")
    modes = {path.stat().st_mode & 0o777 for path in (tmp_path / "out").rglob("*") if path.is_file()}
    assert modes == {0o644}


def test_what_a_killed_run_left_does_not_load(saved, tmp_path):
    left = tmp_path / ".tempoquant-staging-0"
    shutil.copytree(saved, left)
    marker = json.loads((left / MARKER).read_text())
    (left / MARKER).write_text(json.dumps({**marker, "finished": False, "files": []}))
    with pytest.raises(FormatError, match="left by a run that was killed"):
        tempoquant.load(left)


def test_load_says_the_command_that_finishes_an_interrupted_replacement(saved, tmp_path):
    left = new_staging(tmp_path / "out")
    left.rmdir()
    shutil.copytree(saved, left)
    with pytest.raises(InputError) as caught:
        tempoquant.load(tmp_path / "out")
    line = str(caught.value)
    assert "\n" not in line
    subprocess.run(line.split("`")[1], shell=True, check=True)
    tempoquant.load(tmp_path / "out")


@pytest.mark.parametrize("verb", ["save", "export", "quantize"])
def test_a_file_size_limit_is_one_line_and_nothing_is_left(saved, tmp_path, verb):
    quantized = tempoquant.load(saved)
    verbs = {
        "save": lambda: quantized.save_pretrained(tmp_path / "out"),
        "export": lambda: export(quantized, tmp_path / "out"),
        "quantize": lambda: quantize_to(tmp_path / "out"),
    }
    with file_size_limit(5_000), pytest.raises(OSError, match="File too large") as caught:
        verbs[verb]()
    assert caught.value.filename and "\n" not in str(caught.value)
    left = [path.name for path in tmp_path.iterdir()]
    assert left == ["out.partial"] if verb == "quantize" else left == []


def test_a_demonstration_does_not_replace_a_folder_of_the_users(tmp_path, monkeypatch, capfd):
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "cat.png").write_bytes(b"years")
    code, _, err = run(monkeypatch, capfd, "demo", "-o", str(tmp_path / "photos"), "--overwrite")
    assert code == 2 and "cat.png, not written by tempoquant" in err
    assert (tmp_path / "photos" / "cat.png").read_bytes() == b"years"


def test_exporting_and_diagnosing_hold_their_output(saved, tmp_path):
    quantized = tempoquant.load(saved)
    with writing(tmp_path / "out", Kind.EXPORTED), pytest.raises(InputError, match="another run is writing to"):
        export(quantized, tmp_path / "out")
    with writing(tmp_path / "out", Kind.DIAGNOSIS), pytest.raises(InputError, match="another run is writing to"):
        tempoquant.diagnose(quantized, unet_pipeline(), out=tmp_path / "out", recording=tmp_path / "recording")
    # Refused before it recorded.
    assert not (tmp_path / "recording").exists()
