"""Intervals on activations: what is told is what the folders have and what full precision computes."""

import json
import sys

import pytest
import torch
from PIL import Image

import tempoquant
from tempoquant.cli import main
from tempoquant.diagnosis import activation_intervals
from tempoquant.diagnosis.activation_intervals import read_activation_intervals
from tempoquant.errors import FormatError, InputError
from tempoquant.pipelines import resolve
from tempoquant.recipe import Recipe
from tempoquant.recording.recorder import record
from tempoquant.recording.store import Store
from tiny import small_recipe, unet_pipeline

LAYERS = ("down_blocks.1.resnets.0.conv1", "mid_block.resnets.0.conv2")


def by_step(seed=0, steps="per-step"):
    """Rounded to nearest, with an interval a time step."""
    data = small_recipe("rtn", activations=8, seed=seed).model_dump(mode="json")
    return Recipe.parse({**data, "activations": {**data["activations"], "steps": steps}})


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """Two seeds with tables, one model without, another model's, the model, and a recording of it."""
    root = tmp_path_factory.mktemp("spreads")
    model = unet_pipeline()
    model.save_pretrained(root / "model")
    for name, recipe in (("a", by_step()), ("b", by_step(seed=1)), ("still", by_step(steps="constant"))):
        if name == "still":
            recipe = recipe.model_copy(update={"method": "still"})
        tempoquant.quantize(str(root / "model"), recipe, out=root / name)
    tempoquant.quantize(unet_pipeline(seed=5), by_step(), out=root / "other")
    record(resolve(model), root / "recording", samples=3, steps=4, seed=1, dtype="float32")
    record(resolve(unet_pipeline(seed=5)), root / "others", samples=1, steps=4, seed=1)
    return root


def test_intervals_and_activations_are_the_models_own(place):
    folders = [place / name for name in ("a", "b", "still")]
    found = read_activation_intervals(
        folders, str(place / "model"), layers=["*.resnets.0.conv?"], recording=place / "recording", samples=3
    )
    assert found.timesteps.tolist() == [75, 50, 25, 0] and set(LAYERS) <= set(found.layers)
    assert {name: len(runs) for name, runs in found.intervals.items()} == {"rtn W4A8": 2, "still W4A8": 1}
    own, store = tempoquant.load(place / "b"), Store(place / "recording")
    module, full = own.denoiser.module, unet_pipeline().unet
    for name in LAYERS:
        row, table, seen = found.layers.index(name), module.get_submodule(name).input_interval, []
        full.get_submodule(name).register_forward_pre_hook(lambda _, args, seen=seen: seen.append(args[0]))
        least, greatest = (table.q_min - table.zero_point) * table.scale, (table.q_max - table.zero_point) * table.scale
        # Rows of tables ascend, steps of a run descend.
        expected = torch.stack([least, greatest], 1).flip(0)
        torch.testing.assert_close(found.intervals["rtn W4A8"][1, row], expected)
        with torch.no_grad():
            for k in range(4):
                x, t, _ = store.read(torch.full((3,), k), torch.arange(3))
                full(x, t)
        values = torch.stack(seen).flatten(1)
        torch.testing.assert_close(found.quantiles[row, :, 0], values.amin(1))
        torch.testing.assert_close(found.quantiles[row, :, -1], values.amax(1))
        torch.testing.assert_close(found.quantiles[row, :, 3], values.quantile(0.5, 1), atol=0.05, rtol=0.05)
        counts = torch.stack([torch.histogram(row_values, found.edges[row]).hist for row_values in values])
        torch.testing.assert_close(found.shares[row], counts / values.shape[1], atol=0.02, rtol=0)
        assert (found.shares[row].sum(1) > 0.99).all() and (found.shares[row].sum(1) <= 1 + 1e-5).all()
        assert found.edges[row, 0] <= expected.min() and found.edges[row, -1] >= expected.max()


def test_without_a_pattern_those_that_change_most(place):
    found = read_activation_intervals([place / "a"], str(place / "model"), samples=1)
    widths = found.intervals["rtn W4A8"][0].diff(dim=2)[..., 0]
    change = widths.amax(1) / widths.amin(1)
    assert len(found.layers) == activation_intervals.SHOWN and (change > 1).all()
    module = tempoquant.load(place / "a").denoiser.module
    for name, part in module.named_modules():
        own = getattr(part, "input_interval", None)
        if own is not None and own.scale.numel() == 4 and name not in found.layers:
            assert float(own.scale.max() / own.scale.min()) <= float(change.min()) * (1 + 1e-5)


@pytest.mark.parametrize(
    ("folders", "options", "said"),
    [
        (["a", "other"], {}, "other was made from another model than"),
        (["a"], {"layers": ["nothing*"]}, r"layer pattern 'nothing\*' matches no layer with a quantized input"),
        (["still"], {}, "no interval of these folders changes with the time step"),
        (["a"], {"layers": ["*"]}, "layers match: a figure shows at most 12"),
        (["a"], {"recording": "others"}, "others is a recording of another model than"),
        (["a"], {"samples": 0}, "samples = 0"),
        (["nowhere"], {}, "is no folder"),
    ],
)
def test_bad_input(place, folders, options, said):
    given = {name: place / value if name == "recording" else value for name, value in options.items()}
    with pytest.raises(InputError, match=said):
        read_activation_intervals([place / name for name in folders], str(place / "model"), **given)


def test_a_folder_that_is_not_quantized(place):
    with pytest.raises(FormatError, match="not quantized"):
        read_activation_intervals([place / "model"], str(place / "model"))


def test_the_command(place, tmp_path, monkeypatch, capfd):
    def run(*words):
        monkeypatch.setattr(sys, "argv", ["tempoquant", "intervals", *map(str, words)])
        with pytest.raises(SystemExit) as ended:
            main()
        return ended.value.code, *capfd.readouterr()

    given = (place / "a", place / "b", "--reference", place / "model", "-n", 2, "--layer", LAYERS[0])
    out, maps, data = (tmp_path / name for name in ("i.png", "m.svg", "d.json"))
    code, told, _ = run(*given, "-o", out, "--activations", maps, "--json", data)
    assert code == 0 and "1 layers at 4 steps; 2 of rtn W4A8" in " ".join(told.split())
    assert Image.open(out).size[0] > 250 and maps.stat().st_size > 5000
    assert json.loads(data.read_text())["layers"] == [LAYERS[0]]
    for words, said in (
        ((*given, "-o", out), "i.png exists"),
        ((*given, "-o", tmp_path / "i.pdf"), "must end in .png or .svg"),
        ((place / "a", place / "other", "--reference", place / "model", "-o", tmp_path / "x.png"), "another model"),
    ):
        code, _, err = run(*words)
        assert code == 2 and said in err and len(err.strip().splitlines()) == 1, err
    assert not (tmp_path / "x.png").exists() and not (tmp_path / "i.pdf").exists()
