"""The temporal program must give what hooks see in the denoiser, for every layer, call and row."""

from collections import defaultdict

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from graph_models import Plain, labels, probe_of, prompts, text_conditional, transformer, unconditional
from tempoquant.errors import TempoquantError
from tempoquant.graph import Probe, read_denoiser
from tempoquant.temporal.program import TemporalProgram
from tempoquant.temporal.program_check import temporal_program

ROWS = (3, 250, 700, 3, 901)


def program_of(probe: Probe) -> TemporalProgram:
    return temporal_program(probe, read_denoiser(probe))


def seen_by_hooks(probe: Probe, names: tuple[str, ...], steps, conditioning) -> dict[str, Tensor]:
    """Outputs of every call, stacked over rows, under the program's keys."""
    rows: dict[str, list[Tensor]] = defaultdict(list)
    calls: dict[str, int] = {}

    def hook(name: str):
        def see(module: nn.Module, args: tuple, output: Tensor) -> None:
            calls[name] = calls.get(name, 0) + 1
            rows[name if calls[name] == 1 else f"{name}#{calls[name]}"].append(output.clone())

        return see

    handles = [probe.module.get_submodule(name).register_forward_hook(hook(name)) for name in names]
    with torch.no_grad():
        for step, given in zip(steps, conditioning, strict=True):
            calls.clear()
            probe.run(torch.randn(1, *probe.sample_shape), torch.tensor([step]), **given)
    for handle in handles:
        handle.remove()
    return {key: torch.cat(values) for key, values in rows.items()}


def assert_replays(probe: Probe) -> TemporalProgram:
    probe.module.eval()
    program = program_of(probe)
    conditioning = [probe.conditioning(1, row % 2) for row in range(len(ROWS))]
    with torch.no_grad():
        outputs = program.run(program.collect(ROWS, conditioning), lambda name, x: program.modules[name](x))
    expected = seen_by_hooks(probe, program.layers, ROWS, conditioning)
    assert outputs.keys() == expected.keys()
    for key, value in expected.items():
        torch.testing.assert_close(outputs[key], value, rtol=1e-5, atol=1e-6)
    return program


def assert_gradients_reach_every_layer(program: TemporalProgram) -> None:
    scales = {name: torch.ones((), requires_grad=True) for name in program.layers}
    outputs = program.run(program.collect(ROWS), lambda name, x: program.modules[name](x) * scales[name])
    sum(outputs[name].square().sum() for name in program.projections).backward()
    assert all(scale.grad is not None and scale.grad != 0 for scale in scales.values())


DIFFUSERS = {
    "unconditional": lambda: probe_of(unconditional(), (3, 8, 8)),
    "class-conditional": lambda: probe_of(unconditional(num_class_embeds=5), (3, 8, 8), labels),
    "text-conditional": lambda: probe_of(text_conditional(), (4, 8, 8), prompts),
    "transformer": lambda: probe_of(transformer(), (4, 8, 8), labels),
}


@pytest.mark.parametrize("name", DIFFUSERS)
def test_diffusers_denoisers_replay(name: str):
    program = assert_replays(DIFFUSERS[name]())
    assert_gradients_reach_every_layer(program)


def test_layers_are_in_execution_order_and_few_values_come_from_outside():
    program = program_of(DIFFUSERS["class-conditional"]())
    assert program.layers[:3] == (
        "time_embedding.linear_1",
        "time_embedding.linear_2",
        "down_blocks.0.resnets.0.time_emb_proj",
    )
    # The sinusoid, and the class embedding that is added to h.
    assert [tuple(value.shape) for value in program.collect(ROWS).values()] == [(5, 8), (5, 32)]


def test_a_layer_called_twice_gives_both_outputs():
    program = program_of(DIFFUSERS["transformer"]())
    outputs = program.run(program.collect(ROWS), lambda name, x: program.modules[name](x))
    embedder = "transformer_blocks.0.norm1.emb.timestep_embedder"
    assert [key for key in outputs if "#" in key] == [f"{embedder}.linear_1#2", f"{embedder}.linear_2#2"]


def set_first(h: Tensor) -> Tensor:
    h = h * 1
    h[:, 0] = h[:, 1]
    return h


def write_into_buffer(h: Tensor) -> Tensor:
    buffer = torch.zeros(len(h), 8)
    buffer[:, 2:] = h[:, 2:]
    return buffer


MIDDLES = {
    "out of place": F.silu,
    "in place": lambda h: F.silu(h, inplace=True),
    "in place twice": lambda h: h.mul_(2).add_(1),
    "assignment": set_first,
    "buffer": write_into_buffer,
    "view by batch": lambda h: h.view(h.shape[0], 2, 4).reshape(len(h), -1),
    "slice by batch": lambda h: torch.cat([h, h])[: len(h)],
    "chunk": lambda h: torch.cat(h.chunk(2, dim=1)[::-1], dim=1),
    "expand by batch": lambda h: h + torch.arange(8.0).expand(len(h), 8),
    "keyword tensor": lambda h: torch.add(input=h, other=torch.ones(8)),
}


@pytest.mark.parametrize("name", MIDDLES)
def test_functions_between_layers_replay(name: str):
    assert_gradients_reach_every_layer(assert_replays(probe_of(Plain(MIDDLES[name]))))


@pytest.mark.parametrize("made_inside", [False, True])
def test_inference_mode_does_not_matter(made_inside: bool):
    with torch.inference_mode(made_inside):
        probe = probe_of(Plain(MIDDLES["in place"]))
    with torch.inference_mode():
        assert_replays(probe)
    assert_replays(probe)


def test_parameters_between_layers_are_not_rows():
    module = Plain()
    module.middle = lambda h: module.norm(h)
    program = assert_replays(probe_of(module))
    assert len(program.externals) == 1


def test_float_time_steps_stay_floats():
    module = Plain()
    module.sines = lambda t: (t / 1000 if t.is_floating_point() else t * torch.nan)[:, None].expand(len(t), 8)
    program = program_of(probe_of(module, timesteps=(0.5, 1.5, 2.5)))
    assert program.collect([0.25])["external0"].tolist() == [[pytest.approx(0.00025)] * 8]


def test_collecting_does_not_hold_or_change_the_denoiser():
    module = Plain()
    before = {key: value.clone() for key, value in module.state_dict().items()}
    program = program_of(probe_of(module))
    program.run(program.collect(ROWS), lambda name, x: program.modules[name](x))
    assert all(torch.equal(value, before[key]) for key, value in module.state_dict().items())
    assert not any(part._forward_hooks or part._forward_pre_hooks for part in module.modules())


@torch.jit.script
def scripted(h: Tensor) -> Tensor:
    return torch.sigmoid(h) * h


REFUSED = {
    "a function between the temporal layers cannot be followed": scripted,
    "pad.* cannot be run for several time steps at once: it takes 3 at batch 1, 2 at 2": (
        lambda h: F.pad(h, (0, 0, 0, 4 - len(h)))[: len(h)]
    ),
    "index_select.* gives another result for several time steps at once": (
        lambda h: h.index_select(0, torch.arange(len(h)))
    ),
    "run differently in a batch of two": lambda h: h * 1 if len(h) == 2 else h,
}


@pytest.mark.parametrize("message", REFUSED)
def test_what_cannot_be_replayed_is_refused_by_name(message: str):
    with pytest.raises(TempoquantError, match=message):
        program_of(probe_of(Plain(REFUSED[message])))


def test_another_path_at_a_time_step_is_refused_by_its_value():
    module = Plain()
    steps: list[int] = []
    module.sines = lambda t: (steps.append(int(t[0])), Plain.sines(module, t))[1]
    module.middle = lambda h: F.silu(h) if steps[-1] > 5 else h
    program = program_of(probe_of(module))
    with pytest.raises(TempoquantError, match="run differently at time step 3"):
        program.collect([700, 3])


def item_by_item(x: Tensor) -> Tensor:
    return torch.stack([item * 2 for item in x])


class Image(nn.Module):
    def __init__(self, how) -> None:
        super().__init__()
        self.how = how

    def forward(self, x: Tensor) -> Tensor:
        return self.how(x)


def test_the_image_part_may_run_differently_for_each_batch():
    assert_replays(probe_of(Plain(image=Image(item_by_item))))
    sliced = text_conditional()
    sliced.set_attention_slice(1)
    assert_replays(probe_of(sliced, (4, 8, 8), prompts))


class ShapedAsImage(Plain):
    """Takes the type and the batch of its embedding from the sample, and from what is computed from both."""

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        h = self.a(self.sines(t).type_as(x)).type_as(x).to(x)
        h = h.expand_as(x.new_zeros(len(x), 8)) + torch.zeros_like(x.flatten(1)[:, :8])
        image = self.conv(x) + h[:, :4, None, None]
        return image + self.b(h.to(image))[:, :, None, None]


def test_taking_type_or_shape_from_the_sample_is_no_dependence():
    program = assert_replays(probe_of(ShapedAsImage()))
    assert (program.shared, program.projections) == (("a",), ("b",))


def test_values_from_the_sample_are_refused_even_where_they_cancel():
    class Cancels(Plain):
        def forward(self, x: Tensor, t: Tensor) -> Tensor:
            h = self.a(self.sines(t)) + x.flatten(1)[:, :8] * 0
            return self.conv(x) + self.b(h)[:, :, None, None]

    with pytest.raises(TempoquantError, match="'b' cannot be replayed"):
        program_of(probe_of(Cancels()))
