"""Reading a denoiser that is no diffusers class: the folder that holds it is named by TEMPOQUANT_ANIME64."""

import importlib.util
import os
from pathlib import Path

import pytest
import torch

from graph_models import probe_of
from tempoquant.graph import AttentionProduct, Category, TimeArgument, Unit, read_denoiser
from tempoquant.temporal.program_check import temporal_program

FOLDER = os.environ.get("TEMPOQUANT_ANIME64")
if FOLDER is None:
    pytest.skip("TEMPOQUANT_ANIME64 names no folder with anime64.py", allow_module_level=True)

RES = ("down.0.0", "down.2.0", "m1", "m2", "up.0.0", "up.1.0", "up.3.0", "up.4.0")
WITH_SKIP = ("down.2.0", "up.0.0", "up.1.0", "up.3.0", "up.4.0")


@pytest.fixture(scope="module")
def anime64():
    spec = importlib.util.spec_from_file_location("anime64", Path(FOLDER) / "anime64.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def res(name: str) -> Unit:
    return Unit(name, tuple(f"{name}.{part}" for part in ("c1", "c2", "skip")[: 2 + (name in WITH_SKIP)]))


def attention(name: str) -> Unit:
    return Unit(name, tuple(f"{name}.{part}" for part in ("q", "k", "v", "proj")))


def test_a_narrow_one(anime64):
    torch.manual_seed(0)
    unet = anime64.Anime64UNet(widths=(8, 16), attention=(False, True), blocks_per_level=1)
    probe = probe_of(unet, (3, 8, 8), timesteps=(5, 150, 299))
    graph = read_denoiser(probe)
    assert graph.shared == ("t1", "t2")
    assert graph.projections == tuple(f"{name}.temb" for name in RES)
    assert graph.shared_inputs == (graph.projections,)
    assert graph.units == (
        Unit("conv_in", ("conv_in",)),
        res("down.0.0"),
        Unit("down.1.0", ("down.1.0",)),
        res("down.2.0"),
        attention("down.2.1"),
        res("m1"),
        attention("ma"),
        res("m2"),
        res("up.0.0"),
        attention("up.0.1"),
        res("up.1.0"),
        attention("up.1.1"),
        Unit("up.2.0", ("up.2.0",)),
        res("up.3.0"),
        res("up.4.0"),
        Unit("conv_out", ("conv_out",)),
    )
    assert graph.splits == {"up.0.0.skip": 16, "up.1.0.skip": 16, "up.3.0.skip": 16, "up.4.0.skip": 8}
    owners = ("down.2.1", "ma", "up.0.1", "up.1.1")
    assert graph.attention == tuple(AttentionProduct(owner, 0, "explicit", (0, 1)) for owner in owners)
    assert graph.time_argument == TimeArgument(1, "t")
    program = temporal_program(probe, graph)
    # 2 * half = 4 * 8 sines and cosines.
    assert [tuple(value.shape) for value in program.collect([1, 2, 3]).values()] == [(3, 32)]


def test_the_trained_one(anime64):
    probe = probe_of(anime64.load_unet(), (3, 16, 16), timesteps=(5, 150, 299))
    graph = read_denoiser(probe)
    assert sum(layer.category is Category.TEMPORAL for layer in graph.layers) == 24
    assert (graph.shared, len(graph.projections)) == (("t1", "t2"), 22)
    assert len(graph.splits) == 12
    steps = range(0, 300, 60)
    program = temporal_program(probe, graph)
    with torch.no_grad():
        outputs = program.run(program.collect(steps), lambda name, x: program.modules[name](x))
        seen = []
        probe.module.up[0][0].temb.register_forward_hook(lambda module, args, output: seen.append(output))
        for step in steps:
            probe.run(torch.zeros(1, 3, 16, 16), torch.tensor([step]))
    torch.testing.assert_close(outputs["up.0.0.temb"], torch.cat(seen), rtol=1e-5, atol=1e-5)
