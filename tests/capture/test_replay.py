"""Calls replayed from a captured graph: the same bits, whatever changes from call to call; others run as before."""

import copy
import dataclasses
import threading

import pytest
import torch
from diffusers import DiffusionPipeline
from torch import nn

import tempoquant
from conditional_models import dit_pipeline, large_text_pipeline, text_pipeline
from tempoquant.capture.graph import CapturedGraph, GraphCapture
from tempoquant.capture.replay import MOST_GRAPHS, Replay
from tempoquant.errors import InputError
from tempoquant.intervals import Clock
from tempoquant.kernels.norm_fusion import DeferredGroupNorm
from tempoquant.kernels.quantize import GroupNormParams
from tempoquant.layers import quantized_layers
from tempoquant.patching import CAPTURE
from tiny import bare_denoiser, small_recipe, unet_pipeline

CLASSES = {"class_labels": [1, 7, 1, 7, 1], "guidance_scale": 2.0}
PROMPTS = {"prompt": ["a b", "c", "d", "c", "a"], "guidance_scale": 2.0}


def per_step(method="rtn", **changes):
    recipe = small_recipe(method, **changes)
    return recipe.model_copy(update={"activations": recipe.activations.model_copy(update={"steps": "per-step"})})


def unet(freeze=False, **changes):
    made = tempoquant.quantize(unet_pipeline(), per_step(**changes))
    if freeze:
        made.freeze_schedule()
    return made


@pytest.fixture(scope="module", params=["per-step", "frozen"])
def made(request):
    return unet(request.param == "frozen")


def outputs(denoiser, calls):
    with torch.inference_mode():
        return [denoiser(x, t) for x, t in calls]


def calls_of(count, batch=2, seed=0):
    draw = torch.Generator().manual_seed(seed)
    steps = [75, 25, 0, 50]
    return [(torch.randn(batch, 1, 8, 8, generator=draw), steps[i % 4]) for i in range(count)]


@pytest.mark.parametrize("engine", ["auto", "simulation"])
def test_other_samples_and_steps_are_replayed_bit_for_bit(made, engine):
    made.use_engine(engine)
    calls = calls_of(6)
    wanted = outputs(made.denoiser, calls)
    with Replay(made.denoiser.module, made.clock) as replay:
        found = outputs(made.denoiser, calls)
    assert all(torch.equal(a, b) for a, b in zip(found, wanted, strict=True))
    assert not torch.equal(wanted[0], wanted[1])
    assert replay.replays == 4
    assert "forward" not in vars(made.denoiser.module)


def test_every_shape_has_a_graph_of_its_own(made):
    calls = [call for pair in zip(calls_of(4, 1), calls_of(4, 3), strict=True) for call in pair]
    wanted = outputs(made.denoiser, calls)
    with Replay(made.denoiser.module, made.clock) as replay:
        found = outputs(made.denoiser, calls)
    assert all(torch.equal(a, b) for a, b in zip(found, wanted, strict=True))
    assert len(replay.shapes) == 0
    assert replay.replays == 4


def test_batches_of_mixed_steps_are_replayed():
    made = unet()
    steps = [torch.tensor([75, 25]), torch.tensor([0, 50]), torch.tensor([25, 50]), torch.tensor([50, 75])]
    calls = [(x, t) for (x, _), t in zip(calls_of(4), steps, strict=True)]
    wanted = outputs(made.denoiser, calls)
    with Replay(made.denoiser.module, made.clock) as replay:
        assert all(torch.equal(a, b) for a, b in zip(outputs(made.denoiser, calls), wanted, strict=True))
        assert replay.replays == 2


@pytest.mark.parametrize("case", ["unet", "bare", "dit", "text", "large text"])
def test_pictures_are_the_same_bits(case, tmp_path, monkeypatch):
    pipe, given = {
        "unet": lambda: (unet_pipeline(), None),
        "bare": lambda: (bare_denoiser(), None),
        "dit": lambda: (dit_pipeline(), CLASSES),
        "text": lambda: (text_pipeline(tmp_path), PROMPTS),
        "large text": lambda: (large_text_pipeline(tmp_path), PROMPTS),
    }[case]()
    few = given and {name: value[:2] if isinstance(value, list) else value for name, value in given.items()}
    made = tempoquant.quantize(pipe, per_step(), conditioning=few)
    made.use_engine("auto")
    options = {"steps": 4, "seed": 0, "batch_size": 2} | ({"conditioning": given} if given else {})
    wanted = made.model.generate(5, **options)
    played = []
    leave = Replay.__exit__
    monkeypatch.setattr(Replay, "__exit__", lambda self, *a: played.append(self.replays) or leave(self, *a))
    assert torch.equal(made.generate(5, **options), wanted)
    # Two batches of two: all calls but the first two, and of the last sample alone likewise.
    assert played == [6 + 2]


def test_a_loaded_pipeline_draws_the_same_within(tmp_path):
    unet().save_pretrained(tmp_path / "out")
    pipe = DiffusionPipeline.from_pretrained(tmp_path / "out")
    pipe.set_progress_bar_config(disable=True)

    def draw():
        options = {"num_inference_steps": 4, "batch_size": 2, "output_type": "np"}
        return torch.from_numpy(pipe(generator=torch.Generator().manual_seed(0), **options).images)

    wanted = draw()
    with tempoquant.replayed(pipe) as replay:
        assert torch.equal(draw(), wanted)
        assert replay.replays == 2
    with pytest.raises(InputError, match="is not quantized by tempoquant"):
        tempoquant.replayed(unet_pipeline())


class Odd(nn.Module):
    """A denoiser that goes another way by what it is given, or by how often it was called."""

    def __init__(self, kind):
        super().__init__()
        self.inner, self.kind, self.count = nn.Conv2d(1, 1, 3, padding=1), kind, 0

    def forward(self, sample, timestep, scale=None):
        h = self.inner(sample)
        if self.kind == "twice":
            return h + 2 * timestep
        self.count += 1
        if self.kind == "counts":
            return h + float(self.count)
        if self.kind == "looks":
            return h if float(sample.mean()) > 0 else -h
        return h / 1.0 * 1 + 0 * nn.functional.silu(h).detach()[:, :1] if self.kind == "idle" else h.add_(1).mul(2)


@pytest.mark.parametrize(("kind", "played"), [("looks", 0), ("counts", 0), ("changes", 3), ("idle", 3)])
def test_what_cannot_be_replayed_is_computed(kind, played):
    module = Odd(kind).eval()
    clock = Clock(torch.tensor([0.0, 1.0]), 1, "timestep")
    wanted_module = copy.deepcopy(module)
    calls = [(x, torch.tensor([0.0, 1.0])) for x, _ in calls_of(5)]
    wanted = outputs(lambda x, t: wanted_module(x, t), calls)
    with Replay(module, clock) as replay:
        found = outputs(lambda x, t: module(x, t), calls)
        assert replay.replays == played
    assert all(torch.equal(a, b) for a, b in zip(found, wanted, strict=True))


def test_a_graph_leaves_out_what_nobody_reads_and_frees_the_rest():
    x = torch.randn(2, 3)
    with GraphCapture([x]) as capture, torch.inference_mode():
        y = (x + 1) / 1.0
        y.sin()
        parts = torch.cat([y, x.double().float()]).chunk(2)
        result = {"made": parts[0] * 2, "given": None}
    graph = capture.graph(result)
    names = [str(node.function) for node in graph.nodes]
    assert capture.not_capturable is None
    assert not any("sin" in name or "div" in name for name in names)
    freed = [slot for node in graph.nodes for slot in node.freed]
    assert len(freed) == len(set(freed)) == graph.size - 2
    other = torch.randn(2, 3)
    assert torch.equal(graph([other])["made"], (other + 1) * 2)
    assert graph([other])["given"] is None


def test_an_input_given_twice_is_no_other_given_once():
    module = Odd("twice").eval()
    clock = Clock(torch.tensor([0.0, 1.0]), 1, "timestep")
    x, y = torch.randn(4, 1, 8, 8), torch.randn(4, 1, 8, 8)
    calls = [(x, x), (y, y), (x, x), (x, y), (y, x), (x, y)]
    wanted = outputs(lambda a, b: module(a, b), calls)
    with Replay(module, clock) as replay:
        assert all(torch.equal(a, b) for a, b in zip(outputs(lambda a, b: module(a, b), calls), wanted, strict=True))
        assert replay.replays == 2


def test_arguments_that_cannot_be_told_apart_take_the_usual_way():
    module = Odd("twice").eval()
    with Replay(module, Clock(torch.tensor([0.0, 1.0]), 1, "timestep")) as replay:
        outputs(lambda a, b: module(a, a, scale=bytearray(b"1")), calls_of(4))
        assert replay.replays == 0


def test_a_deferred_norm_of_a_constant_is_not_capturable():
    constant, norm = torch.randn(1, 4, 2, 2), GroupNormParams(2, torch.ones(4), torch.zeros(4), 1e-5)
    with GraphCapture([]) as capture, torch.inference_mode():
        capture.as_operator(lambda x: x.computed())(DeferredGroupNorm(constant, norm, False))
    assert "the deferred norm's input is created outside of the captured call" in capture.not_capturable


def test_gradients_and_training_take_the_usual_way():
    module = Odd("changes").eval()
    with Replay(module, Clock(torch.tensor([0.0, 1.0]), 1, "timestep")) as replay:
        for _ in range(4):
            module(torch.randn(1, 1, 8, 8), torch.tensor([0.0])).sum().backward()
        module.train()
        outputs(lambda x, t: module(x, torch.tensor([0.0])), calls_of(4))
        assert not replay.shapes
    assert module.inner.weight.grad is not None


def test_parts_with_hooks_are_refused_and_generate_does_without(made):
    part = made.denoiser.module.get_submodule("conv_in")
    seen = []
    handle = part.register_forward_hook(lambda *call: seen.append(1))
    try:
        with pytest.raises(InputError, match="has hooks"), Replay(made.denoiser.module, made.clock):
            pass
        made.generate(2, steps=4, seed=0)
        assert len(seen) == 4
    finally:
        handle.remove()


def test_a_failing_call_leaves_everything_as_it_was():
    made = unet()
    module = made.denoiser.module
    kernels = {name: part.kernel for name, part in module.named_modules() if hasattr(part, "kernel")}
    with pytest.raises(RuntimeError), Replay(module, made.clock):
        made.denoiser(torch.zeros(1, 3, 8, 8), 75)
    with torch.no_grad(), pytest.raises(RuntimeError), Replay(module, made.clock):
        made.denoiser(torch.zeros(1, 3, 8, 8), 75)
    assert {name: part.kernel for name, part in module.named_modules() if hasattr(part, "kernel")} == kernels


def test_kernels_are_left_alone_while_a_graph_is_recorded():
    """Other threads call them too."""
    made = unet()
    layers, seen = [*quantized_layers(made.denoiser.module).values()], []
    own = layers[0].kernel
    layers[0].kernel = lambda layer, x: seen.append([part.kernel for part in layers]) or own(layer, x)
    before = [part.kernel for part in layers]
    made.generate(1, steps=4, seed=0)
    assert len(seen) == 5 and all(kernels == before for kernels in seen)


def test_a_plain_call_of_another_thread_leaves_the_graph_that_is_recorded():
    class Slow(Odd):
        def forward(self, sample, timestep):
            if CAPTURE.as_operator is not None:
                thread = threading.Thread(target=outputs, args=(self, [(sample, timestep)]))
                thread.start()
                thread.join()
            return super().forward(sample, timestep)

    module, clock = Slow("changes").eval(), Clock(torch.tensor([0.0, 1.0]), 1, "timestep")
    with Replay(module, clock) as replay:
        outputs(module, [(x, torch.tensor([0.0])) for x, _ in calls_of(5)])
        assert replay.replays == 3


def test_the_last_shapes_are_kept():
    module = Odd("changes").eval()
    clock = Clock(torch.tensor([0.0, 1.0]), 1, "timestep")
    steps = torch.tensor([0.0])
    with Replay(module, clock) as replay, torch.inference_mode():
        for batch in range(1, 31):
            for _ in range(3):
                module(torch.randn(batch, 1, 8, 8), steps)
        assert (len(replay.shapes), replay.replays) == (MOST_GRAPHS, 30)
        module(torch.randn(30, 1, 8, 8), steps)
        module(torch.randn(1, 1, 8, 8), steps)
        assert replay.replays == 31


@pytest.mark.parametrize("kind", [int, float])
def test_time_steps_that_are_numbers_share_a_graph(made, kind):
    module, calls = made.denoiser.module, [(x, kind(t)) for x, t in calls_of(8)]

    def call(x, t):
        return module(x, t).sample

    wanted = outputs(call, calls)
    with Replay(module, made.clock) as replay:
        assert all(torch.equal(a, b) for a, b in zip(outputs(call, calls), wanted, strict=True))
        assert (len(replay.shapes), replay.replays) == (1, 6)


def test_number_that_the_denoiser_treats_as_one_is_computed():
    """Thirds of a number are not those of a float32 tensor."""

    class Thirds(nn.Module):
        def forward(self, sample, timestep):
            return sample + timestep / 3 * 1e7

    module, clock = Thirds().eval(), Clock(torch.tensor([0.0, 1.0]), 1, "timestep")
    calls = [(x.double(), 1 + i % 2) for i, (x, _) in enumerate(calls_of(6))]
    wanted = outputs(module, calls)
    with Replay(module, clock) as replay, clock.at(1):
        assert all(torch.equal(a, b) for a, b in zip(outputs(module, calls), wanted, strict=True))
        assert replay.replays == 0


class Heads(nn.Module):
    """A denoiser of torch's own attention, which gives no second result where none is asked for."""

    def __init__(self):
        super().__init__()
        self.time_in, self.time_out = nn.Linear(1, 8), nn.Linear(8, 8)
        self.inner, self.last = nn.Linear(8, 8), nn.Linear(8, 8)
        self.attention = nn.MultiheadAttention(8, 2, batch_first=True)

    def forward(self, sample, timestep):
        emb = self.time_out(nn.functional.silu(self.time_in(timestep.float()[:, None])))
        h = self.inner(sample[:, 0]) + emb[:, None]
        return (h + self.last(self.attention(h, h, h, need_weights=False)[0]))[:, None]


@pytest.mark.parametrize("engine", ["auto", "simulation"])
def test_attention_of_torch_is_replayed(engine):
    torch.manual_seed(0)
    denoiser = dataclasses.replace(bare_denoiser(), module=Heads().eval())
    made = tempoquant.quantize(denoiser, per_step())
    made.use_engine(engine)
    wanted = made.model.generate(4, steps=4, seed=0, batch_size=2)
    assert torch.equal(made.generate(4, steps=4, seed=0, batch_size=2), wanted)


class Broken(nn.Module):
    """A denoiser that fails where its operators are watched, or always."""

    def __init__(self, always):
        super().__init__()
        self.inner, self.always = nn.Conv2d(1, 1, 3, padding=1), always

    def forward(self, sample, timestep):
        if self.always or CAPTURE.as_operator is not None:
            raise ValueError("on purpose")
        return self.inner(sample)


def test_what_fails_while_it_is_recorded_is_computed():
    module, clock = Broken(False).eval(), Clock(torch.tensor([0.0, 1.0]), 1, "timestep")
    calls = [(x, torch.tensor([0.0])) for x, _ in calls_of(4)]
    wanted = outputs(module, calls)
    with Replay(module, clock) as replay:
        assert all(torch.equal(a, b) for a, b in zip(outputs(module, calls), wanted, strict=True))
        assert replay.replays == 0


@pytest.mark.parametrize("at", [1, 3])
def test_a_graph_that_fails_is_played_no_more(monkeypatch, at):
    module, clock, played = Odd("changes").eval(), Clock(torch.tensor([0.0, 1.0]), 1, "timestep"), []
    calls = [(x, torch.tensor([0.0])) for x, _ in calls_of(6)]
    wanted, run = outputs(module, calls), CapturedGraph.__call__

    def failing(self, inputs):
        played.append(1)
        if len(played) >= at:
            raise RuntimeError("on purpose")
        return run(self, inputs)

    monkeypatch.setattr(CapturedGraph, "__call__", failing)
    with Replay(module, clock):
        assert all(torch.equal(a, b) for a, b in zip(outputs(module, calls), wanted, strict=True))
    assert len(played) == at


def test_an_error_of_the_denoiser_itself_comes_out():
    module, clock = Broken(True).eval(), Clock(torch.tensor([0.0, 1.0]), 1, "timestep")
    with Replay(module, clock), torch.inference_mode():
        for _ in range(3):
            with pytest.raises(ValueError, match="on purpose"):
                module(torch.zeros(1, 1, 8, 8), torch.tensor([0.0]))


def test_parts_with_a_forward_of_another_tool_are_computed(made):
    part = made.denoiser.module.get_submodule("conv_in")
    own, calls = part.forward, []
    part.forward = lambda x: calls.append(1) or own(x)
    try:
        made.generate(2, steps=4, seed=0)
    finally:
        del part.forward
    assert len(calls) == 4
