"""The training script: interrupted and resumed, it writes the bytes of an uninterrupted run."""

import gzip
import importlib
import json
from pathlib import Path

import pytest
import torch
from diffusers import DDIMPipeline, UNet2DModel

EXAMPLES = Path(__file__).parents[2] / "examples"


def tiny_unet(classes: bool = False) -> UNet2DModel:
    blocks = {"down_block_types": ("DownBlock2D",), "up_block_types": ("UpBlock2D",)}
    blocks["num_class_embeds"] = 11 if classes else None
    return UNet2DModel(
        32, 1, 1, layers_per_block=1, block_out_channels=(8,), norm_num_groups=4, add_attention=False, **blocks
    )


@pytest.fixture
def script(monkeypatch):
    monkeypatch.syspath_prepend(str(EXAMPLES))
    module = importlib.import_module("train_fashion32")
    monkeypatch.setattr(module, "build_unet", tiny_unet)
    return module


@pytest.fixture
def data(tmp_path) -> Path:
    pixels = torch.randint(0, 256, (7, 28, 28), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    header = b"".join(number.to_bytes(4, "big") for number in (2051, *pixels.shape))
    folder = tmp_path / "data"
    folder.mkdir()
    (folder / "train-images-idx3-ubyte.gz").write_bytes(gzip.compress(header + pixels.numpy().tobytes()))
    header = b"".join(number.to_bytes(4, "big") for number in (2049, 7))
    (folder / "train-labels-idx1-ubyte.gz").write_bytes(gzip.compress(header + bytes(range(7))))
    return folder


def words(data: Path, out: Path, *more: str) -> list[str]:
    given = {"--data": data, "--out": out, "--steps": 5, "--batch": 3, "--threads": 1, "--save-every": 2}
    return [*(str(word) for pair in given.items() for word in pair), *more]


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def interrupt(script, monkeypatch, step: int) -> None:
    advance = script.Training.advance

    def interrupted(training) -> float:
        if training.step == step:
            raise KeyboardInterrupt
        return advance(training)

    monkeypatch.setattr(script.Training, "advance", interrupted)


def test_resumed_equals_uninterrupted(script, data, tmp_path, monkeypatch):
    whole, resumed = tmp_path / "whole", tmp_path / "resumed"
    assert script.main(words(data, whole)) == 0
    with monkeypatch.context() as patch:
        interrupt(script, patch, step=3)
        with pytest.raises(KeyboardInterrupt):
            script.main(words(data, resumed))
    assert not resumed.exists()
    assert json.loads((tmp_path / "resumed.partial" / "state.json").read_text())["step"] == 2
    torch.randn(3)  # the global stream must not matter
    assert script.main(words(data, resumed, "--resume")) == 0
    assert contents(whole) == contents(resumed)
    assert not (tmp_path / "resumed.partial").exists()
    untrained = tiny_unet().state_dict()
    assert set(DDIMPipeline.from_pretrained(whole).unet.state_dict()) == set(untrained)


def test_seed_decides_the_weights(script, data, tmp_path):
    for seed in ("0", "1"):
        assert script.main(words(data, tmp_path / seed, "--seed", seed)) == 0
    assert contents(tmp_path / "0") != contents(tmp_path / "1")


def test_refusals(script, data, tmp_path, capsys, monkeypatch):
    out = tmp_path / "out"
    out.mkdir()
    assert script.main(words(data, out)) == 2
    assert "out exists: choose another folder or pass --overwrite" in capsys.readouterr().err
    assert script.main(words(tmp_path, tmp_path / "none")) == 2
    assert "no train-images-idx3-ubyte.gz in" in capsys.readouterr().err
    assert script.main(words(data, tmp_path / "none", "--batch", "0")) == 2
    assert not (tmp_path / "none").exists()
    interrupt(script, monkeypatch, step=2)
    with pytest.raises(KeyboardInterrupt):
        script.main(words(data, out, "--overwrite"))
    assert script.main(words(data, out, "--overwrite", "--resume", "--seed", "7")) == 2
    assert "was begun with seed = 0, not 7" in capsys.readouterr().err
    (tmp_path / "out.partial" / "state-2.safetensors").write_bytes(b"torn")
    assert script.main(words(data, out, "--overwrite", "--resume")) == 2
    assert "holds no checkpoint that can be continued" in capsys.readouterr().err
    assert list(out.iterdir()) == []


def test_truncated_data(script, data, tmp_path, capsys):
    (data / "train-images-idx3-ubyte.gz").write_bytes(gzip.compress(b"\0\0\x08\x03"))
    assert script.main(words(data, tmp_path / "out")) == 2
    assert "is no idx file of Fashion-MNIST" in capsys.readouterr().err


def test_classes_start_from_a_model_without(script, data, tmp_path):
    start, out = tmp_path / "start", tmp_path / "classes"
    assert script.main(words(data, start)) == 0
    settings = script.Settings(steps=1, batch=1, seed=0, threads=1, classes=True, start=str(start))
    training = script.Training(torch.zeros(7, 1, 32, 32), torch.arange(7), settings)
    x, label = torch.randn(2, 1, 32, 32), torch.tensor([3, 10])
    with torch.no_grad():
        begun = training.ema(x, 5, class_labels=label).sample
        assert torch.equal(begun, DDIMPipeline.from_pretrained(start).unet(x, 5).sample)
    assert script.main(words(data, out, "--classes", "--start", str(start))) == 0
    unet = UNet2DModel.from_pretrained(out / "unet")
    assert unet.class_embedding.weight.abs().sum() > 0
    assert json.loads((out / "model_index.json").read_text())["_class_name"] == "ClassPipeline"


def test_a_tenth_of_the_labels_is_dropped_and_none_is_mixed_up(script):
    settings = script.Settings(steps=1, batch=4000, seed=0, threads=1, classes=True)
    pictures = torch.arange(10, dtype=torch.uint8).view(10, 1, 1, 1).expand(10, 1, 2, 2)
    samples, _, _, labels = script.Training(pictures, torch.arange(10), settings).draw()
    dropped = labels == 10
    assert 0.07 < dropped.float().mean() < 0.13
    assert torch.equal(((samples[~dropped][:, 0, 0, 0] + 1) * 127.5).round().long(), labels[~dropped])


def test_a_start_of_another_architecture_is_refused(script, data, tmp_path, capsys):
    assert script.main(words(data, tmp_path / "out", "--start", "fashion32")) == 2
    assert "fashion32 is no model of this architecture" in capsys.readouterr().err
