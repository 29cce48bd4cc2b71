"""Calls played back from a tape: the same bits, whatever changes from call to call; anything else stays as it was."""

import copy

import pytest
import torch
from diffusers import DiffusionPipeline
from torch import nn

import tempoquant
from conditional_models import dit_pipeline, large_text_pipeline, text_pipeline
from tempoquant.errors import InputError
from tempoquant.intervals import Clock
from tempoquant.runtime import Replay
from tempoquant.runtime.bytes import GroupNorm
from tempoquant.runtime.norms import Awaited
from tempoquant.runtime.tape import Recorder
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
def test_other_samples_and_steps_are_played_back_bit_for_bit(made, engine):
    made.use_engine(engine)
    calls = calls_of(6)
    wanted = outputs(made.denoiser, calls)
    with Replay(made.denoiser.module, made.clock) as replay:
        found = outputs(made.denoiser, calls)
    assert all(torch.equal(a, b) for a, b in zip(found, wanted, strict=True))
    assert not torch.equal(wanted[0], wanted[1])
    assert replay.played == 4
    assert "forward" not in vars(made.denoiser.module)


def test_every_shape_has_a_tape_of_its_own(made):
    calls = [call for pair in zip(calls_of(4, 1), calls_of(4, 3), strict=True) for call in pair]
    wanted = outputs(made.denoiser, calls)
    with Replay(made.denoiser.module, made.clock) as replay:
        found = outputs(made.denoiser, calls)
    assert all(torch.equal(a, b) for a, b in zip(found, wanted, strict=True))
    assert len(replay.tapes) == 0
    assert replay.played == 4


def test_batches_of_mixed_steps_are_played_back():
    made = unet()
    steps = [torch.tensor([75, 25]), torch.tensor([0, 50]), torch.tensor([25, 50]), torch.tensor([50, 75])]
    calls = [(x, t) for (x, _), t in zip(calls_of(4), steps, strict=True)]
    wanted = outputs(made.denoiser, calls)
    with Replay(made.denoiser.module, made.clock) as replay:
        assert all(torch.equal(a, b) for a, b in zip(outputs(made.denoiser, calls), wanted, strict=True))
        assert replay.played == 2


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
    wanted = made.target.generate(5, **options)
    played = []
    leave = Replay.__exit__
    monkeypatch.setattr(Replay, "__exit__", lambda self, *a: played.append(self.played) or leave(self, *a))
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
        assert replay.played == 2
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
def test_what_cannot_be_played_back_is_computed(kind, played):
    module = Odd(kind).eval()
    clock = Clock(torch.tensor([0.0, 1.0]), 1, "timestep")
    wanted_module = copy.deepcopy(module)
    calls = [(x, torch.tensor([0.0, 1.0])) for x, _ in calls_of(5)]
    wanted = outputs(lambda x, t: wanted_module(x, t), calls)
    with Replay(module, clock) as replay:
        found = outputs(lambda x, t: module(x, t), calls)
        assert replay.played == played
    assert all(torch.equal(a, b) for a, b in zip(found, wanted, strict=True))


def test_a_tape_leaves_out_what_nobody_reads_and_frees_the_rest():
    x = torch.randn(2, 3)
    with Recorder([x]) as recorder, torch.inference_mode():
        y = (x + 1) / 1.0
        y.sin()
        parts = torch.cat([y, x.double().float()]).chunk(2)
        result = {"made": parts[0] * 2, "given": None}
    tape = recorder.tape(result)
    names = [str(node.function) for node in tape.nodes]
    assert recorder.why is None
    assert not any("sin" in name or "div" in name for name in names)
    freed = [slot for node in tape.nodes for slot in node.done]
    assert len(freed) == len(set(freed)) == tape.size - 2
    other = torch.randn(2, 3)
    assert torch.equal(tape([other])["made"], (other + 1) * 2)
    assert tape([other])["given"] is None


def test_an_input_given_twice_is_no_other_given_once():
    module = Odd("twice").eval()
    clock = Clock(torch.tensor([0.0, 1.0]), 1, "timestep")
    x, y = torch.randn(4, 1, 8, 8), torch.randn(4, 1, 8, 8)
    calls = [(x, x), (y, y), (x, x), (x, y), (y, x), (x, y)]
    wanted = outputs(lambda a, b: module(a, b), calls)
    with Replay(module, clock) as replay:
        assert all(torch.equal(a, b) for a, b in zip(outputs(lambda a, b: module(a, b), calls), wanted, strict=True))
        assert replay.played == 2


def test_arguments_that_cannot_be_told_apart_take_the_usual_way():
    module = Odd("twice").eval()
    with Replay(module, Clock(torch.tensor([0.0, 1.0]), 1, "timestep")) as replay:
        outputs(lambda a, b: module(a, a, scale=bytearray(b"1")), calls_of(4))
        assert replay.played == 0


def test_a_waiting_norm_of_a_constant_is_not_recorded():
    constant, norm = torch.randn(1, 4, 2, 2), GroupNorm(2, torch.ones(4), torch.zeros(4), 1e-5)
    with Recorder([]) as recorder, torch.inference_mode():
        recorder.whole(lambda x: x.computed())(Awaited(constant, norm, False))
    assert recorder.why == "a norm waits whose input it does not compute"


def test_gradients_and_training_take_the_usual_way():
    module = Odd("changes").eval()
    with Replay(module, Clock(torch.tensor([0.0, 1.0]), 1, "timestep")) as replay:
        for _ in range(4):
            module(torch.randn(1, 1, 8, 8), torch.tensor([0.0])).sum().backward()
        module.train()
        outputs(lambda x, t: module(x, torch.tensor([0.0])), calls_of(4))
        assert not replay.tapes
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
