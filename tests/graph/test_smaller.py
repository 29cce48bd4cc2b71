"""Denoisers are read with small images where they take them: what is found is that of the full size."""

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from graph_models import Plain, labels, probe_of, prompts, text_conditional, transformer, unconditional
from tempoquant.graph import Probe, read_denoiser, reader
from tempoquant.graph.probing import smaller
from tempoquant.temporal import program_check
from tempoquant.temporal.program_check import temporal_program


@pytest.mark.parametrize(("side", "less"), [(16, 16), (31, 31), (32, 16), (48, 16), (64, 16), (96, 24)])
def test_sides_are_quartered_down_to_sixteen(side, less):
    assert smaller(probe_of(unconditional(), (3, side, side))).sample_shape == (3, less, less)


def test_a_model_of_one_size_and_tokens_keep_theirs():
    whole = probe_of(transformer(), (4, 8, 8), labels)
    assert smaller(whole) is whole

    class Sized(Plain):
        def forward(self, x: Tensor, t: Tensor) -> Tensor:
            return super().forward(x.reshape(-1, 4, 32, 32), t)

    for module, shape in ((Sized(), (4, 32, 32)), (Plain(), (256, 4))):
        probe = probe_of(module, shape)
        assert smaller(probe) is probe


@pytest.mark.parametrize("conditioned", [False, True])
def test_what_is_read_is_that_of_the_full_size(conditioned, monkeypatch):
    shape = (4, 32, 32) if conditioned else (3, 32, 32)
    probe = probe_of(text_conditional(), shape, prompts) if conditioned else probe_of(unconditional(), shape)
    graph, program = read_denoiser(probe), temporal_program(probe, read_denoiser(probe))
    assert program.probe.sample_shape[1:] == (16, 16)
    monkeypatch.setattr(reader, "smaller", lambda probe: probe)
    monkeypatch.setattr(program_check, "smaller", lambda probe: probe)
    assert read_denoiser(probe) == graph
    whole = temporal_program(probe, graph)
    assert whole.probe is probe
    steps = (3, 700)
    found, wanted = program.collect(steps), whole.collect(steps)
    assert found.keys() == wanted.keys() and all(torch.equal(found[key], wanted[key]) for key in wanted)


class RangeObserver(nn.Module):
    """Time steps as a map of the image's size, which a convolution sees."""

    def __init__(self, by: str):
        super().__init__()
        self.by, self.time, self.embed = by, nn.Conv2d(4, 4, 3, padding=1), nn.Linear(1, 4)
        self.image = nn.Conv2d(4, 4, 3, padding=1)

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        t = t.float()[:, None] / 1000
        if self.by == "outside":
            spread = torch.cat([t, t.sin(), t.cos(), t**2], 1)[:, :, None, None].expand(-1, -1, *x.shape[2:])
        else:
            spread = self.embed(t)[:, :, None, None].expand(-1, -1, *x.shape[2:])
        return F.silu(self.image(x)) + self.time(spread)


@pytest.mark.parametrize("by", ["outside", "a layer's output"])
def test_a_time_step_spread_over_the_image_keeps_its_size(by):
    probe: Probe = probe_of(RangeObserver(by), (4, 32, 32))
    program = temporal_program(probe, read_denoiser(probe))
    assert program.probe is probe
    with torch.no_grad():
        made = program.run(program.collect((3, 700)), lambda name, x: program.modules[name](x))
    assert made["time"].shape == (2, 4, 32, 32)
