"""What `tempoquant quantize` says of layers that stay float."""

import json
import sys
from pathlib import Path

import pytest

from tempoquant.cli import main

USER_FILE = """
import torch
from diffusers import DDIMScheduler
from torch import nn

from tempoquant import Denoiser


class Smoothed(nn.Conv1d):
    def forward(self, input):
        return nn.functional.avg_pool1d(super().forward(input), 3, 1, 1)


class Signals(nn.Module):
    def __init__(self, mixed):
        super().__init__()
        self.time = nn.Linear(2, 4)
        self.first = nn.Linear(8, 8) if mixed else nn.Identity()
        self.down, self.up = Smoothed(4, 4, 3, padding=1), Smoothed(4, 4, 3, padding=1)

    def forward(self, sample, timestep):
        emb = self.time((timestep.float()[:, None] * torch.tensor([0.1, 0.01])).sin())
        return self.up(nn.functional.silu(self.down(self.first(sample)) + emb[:, :, None]))


def made(mixed):
    torch.manual_seed(0)
    scheduler = DDIMScheduler(num_train_timesteps=100, clip_sample=False)
    return Denoiser(Signals(mixed).eval(), scheduler, (4, 8), name="signals")


def signals():
    return made(mixed=False)


def mixed():
    return made(mixed=True)
"""
FEW = ("--method", "rtn", "--samples", "2", "--steps", "4")


@pytest.fixture
def run(tmp_path, monkeypatch, capfd):
    """Run `tempoquant quantize` in a folder with the user's file: its exit code, stdout and stderr."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.py").write_text(USER_FILE)

    def call(*args: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["tempoquant", "quantize", *FEW, "-o", "out", *args])
        with pytest.raises(SystemExit) as ended:
            main()
        out, err = capfd.readouterr()
        return ended.value.code, out, err

    return call


def test_the_shares_are_printed_stored_and_warned_of(run):
    code, out, err = run("mine.py:mixed", "--json", "q.json")
    # A Linear of 8 x 8 for each of four rows, the time's of 2 x 4; two convolutions of 4 x 4 x 3 at eight places.
    macs = 4 * 64 + 8, 4 * 64 + 8 + 2 * 8 * 48
    assert code == 0 and f"25.6 % of {macs[1]:,} multiply-accumulates" in out
    assert "74.4 % of the arithmetic" in out and "up (Smoothed)" in out
    warned = [line for line in err.splitlines() if "warning" in line]
    assert (
        len(warned) == 1
        and "25.6 % of the arithmetic is quantized; float are down (Smoothed), up (Smoothed)" in warned[0]
    )
    found = json.loads(Path("q.json").read_text())["coverage"]
    assert (found["quantized_macs"], found["macs"]) == macs
    assert found == json.loads(Path("out/tempoquant.json").read_text())["coverage"]


def test_a_model_of_other_layers_is_refused_in_one_line(run):
    code, out, err = run("mine.py:signals")
    lines = [line for line in err.splitlines() if "ETA" not in line]
    assert (code, out, len(lines)) == (2, "", 1)
    assert (
        "quantizes no layer of this denoiser that sees the sample: layers of other kinds stay float: down (Smoothed)"
        in lines[0]
    )
    assert not Path("out").exists() and not Path("out.partial").exists()


def test_groups_that_divide_no_layer_are_named_and_others_refused(run):
    code, out, err = run("mine.py:mixed", "--group-size", "16")
    assert code == 0, err
    assert "one weight scale a channel, since groups do not divide its inputs: time, first" in " ".join(out.split())
    code, out, err = run("mine.py:mixed", "--group-size", "20", "--overwrite")
    assert code == 2 and err == (
        "tempoquant: recipe: weights.group_size = 20: groups are of 16, 32, 64, 128 input channels; the nearest is 16\n"
    )


def test_activation_scales_of_tokens_and_inputs_by_option(run):
    for words, kind in (
        (("--granularity", "per-token"), "tokens"),
        (("--dynamic",), "dynamic"),
        (("--dynamic", "--granularity", "per-token"), "dynamic"),
    ):
        code, _, err = run("mine.py:mixed", *words, "--overwrite")
        assert code == 0, err
        config = json.loads(Path("out/denoiser/config.json").read_text())["quantization_config"]
        # Temporal layers keep their own calibration.
        assert kind in {entry["kind"] for entry in config["intervals"]} <= {kind, "constant", "table"}
        activations = config["recipe"]["activations"]
        assert activations.get("dynamic", False) == ("--dynamic" in words)
        assert activations.get("granularity", "per-tensor") == ("per-token" if "per-token" in words else "per-tensor")
    code, _, err = run("mine.py:mixed", "--method", "tdq-ptq", "--granularity", "per-token", "--overwrite")
    assert code == 2 and "granularity = 'per-token' has no step sizes that learn: leave out learn" in err
    code, _, err = run("mine.py:mixed", "--granularity", "per-row", "--overwrite")
    assert code == 2 and "activations.granularity = 'per-row'" in err
