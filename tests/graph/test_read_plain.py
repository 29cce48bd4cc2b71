"""Reading hand-made denoisers, each with one thing that could mislead the reader."""

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from graph_models import Attend, Plain, Tokens, probe_of
from tempoquant.errors import InputError, NumericsError
from tempoquant.graph import DenoiserGraph, Unit, read_denoiser


def categories(graph: DenoiserGraph) -> dict[str, str]:
    return {layer.name: str(layer.category) for layer in graph.layers}


def test_dropout_does_not_look_like_dependence_and_flags_are_restored():
    module = Plain(middle=nn.Dropout(0.5)).train()
    module.norm.eval()
    graph = read_denoiser(probe_of(module))
    assert categories(graph) == {"a": "temporal", "b": "temporal", "conv": "image"}
    assert module.training and module.middle.training and not module.norm.training


def test_the_global_seed_is_untouched():
    torch.manual_seed(3)
    expected = torch.rand(())
    module = Plain()
    torch.manual_seed(3)
    read_denoiser(probe_of(module))
    assert torch.rand(()) == expected


def test_running_statistics_are_untouched():
    norm = nn.BatchNorm2d(4)
    read_denoiser(probe_of(Plain(image=norm).train()))
    assert norm.num_batches_tracked == 0


def test_two_time_steps_that_are_equal_by_accident_do_not_hide_the_dependence():
    module = Plain()
    module.sines = lambda t: Plain.sines(module, t % 490)
    assert categories(read_denoiser(probe_of(module, timesteps=(10, 500, 900))))["a"] == "temporal"


def test_no_hook_stays():
    module = Plain(image=Tokens(Attend(F.scaled_dot_product_attention)))
    read_denoiser(probe_of(module))
    assert not any(part._forward_hooks or part._forward_pre_hooks for part in module.modules())


class UsedTwice(Plain):
    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        emb = self.b(self.a(self.sines(t)))
        return super().forward(x, t) + emb[:, :, None, None] + self.a(x.flatten(2).mean(-1).repeat(1, 2)).mean()


def test_a_layer_that_sees_the_step_and_once_the_sample_is_an_image_layer():
    graph = read_denoiser(probe_of(UsedTwice(), timesteps=(1, 2, 3)))
    assert categories(graph)["a"] == "image"
    assert next(layer.calls for layer in graph.layers if layer.name == "a") == 3


class Constant(Plain):
    def __init__(self) -> None:
        super().__init__()
        self.position, self.never = nn.Linear(3, 4), nn.Linear(2, 2)

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        return super().forward(x, t) + self.position(torch.ones(3))[:, None, None]


def test_constant_and_unused_layers():
    graph = read_denoiser(probe_of(Constant()))
    assert categories(graph) == {"a": "temporal", "b": "temporal", "conv": "image", "position": "constant"}
    assert graph.unused == ("never",)
    assert graph.units == (Unit("conv", ("conv",)),)


def test_what_counts_is_a_layer_s_input_not_its_output():
    """Modulations that start at zero see the time step, though nothing comes of it yet."""
    module = Plain()
    nn.init.zeros_(module.b.weight)
    graph = read_denoiser(probe_of(module))
    assert categories(graph) == {"a": "temporal", "b": "temporal", "conv": "image"}
    nn.init.zeros_(module.a.weight)
    graph = read_denoiser(probe_of(module))
    assert categories(graph) == {"a": "temporal", "b": "constant", "conv": "image"}
    assert (graph.shared, graph.projections) == ((), ("a",))


def test_layers_called_by_keyword():
    class Keyword(Plain):
        def forward(self, x: Tensor, t: Tensor) -> Tensor:
            return self.conv(input=x) + self.b(input=self.a(input=self.sines(t)))[:, :, None, None]

    assert categories(read_denoiser(probe_of(Keyword()))) == {"a": "temporal", "b": "temporal", "conv": "image"}


class Joined(Plain):
    """Concatenates with a skip and with a constant map; ``change`` is done to the skip's concatenation."""

    def __init__(self, change) -> None:
        super().__init__()
        self.change, self.skip, self.pad = change, nn.Conv2d(12, 4, 1), nn.Conv2d(5, 8, 1)

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        wide = self.pad(torch.cat([x, torch.ones_like(x[:, :1])], dim=1))
        return super().forward(self.skip(self.change(torch.cat([wide, x], 1))), t)


def test_split_is_where_the_skip_begins_and_a_constant_map_is_no_skip():
    assert read_denoiser(probe_of(Joined(torch.Tensor.contiguous))).splits == {"skip": 8}
    assert read_denoiser(probe_of(Joined(torch.Tensor.clone))).splits == {"skip": 8}


def test_no_split_after_an_activation_even_in_place():
    assert read_denoiser(probe_of(Joined(F.relu))).splits == {}
    assert read_denoiser(probe_of(Joined(F.relu_))).splits == {}


class Loop(nn.Module):
    """Iterates over a Sequential instead of calling it."""

    def __init__(self, called: bool):
        super().__init__()
        self.called = called
        self.body = nn.Sequential(nn.Conv2d(4, 4, 1), nn.ReLU(), nn.Conv2d(4, 4, 1))
        self.tail = nn.Conv2d(4, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        if self.called:
            return self.tail(self.body(x))
        for part in self.body:
            x = part(x)
        return self.tail(x)


def test_only_a_module_that_is_called_is_a_unit():
    units = read_denoiser(probe_of(Plain(image=Loop(called=True)))).units
    assert units[1:] == (Unit("image.body", ("image.body.0", "image.body.2")), Unit("image.tail", ("image.tail",)))
    units = read_denoiser(probe_of(Plain(image=Loop(called=False)))).units
    assert units[1:] == (Unit("image", ("image.body.0", "image.body.2", "image.tail")),)


@pytest.mark.parametrize(("counts", "names"), [((8, 8), ["image"]), ((8, 9), ["image.inner.0", "image.inner.1"])])
def test_linear_layers_in_two_modules_are_one_unit_up_to_sixteen(counts: tuple[int, int], names: list[str]):
    halves = nn.Sequential(*(nn.Sequential(*(nn.Linear(4, 4) for _ in range(count))) for count in counts))
    units = read_denoiser(probe_of(Plain(image=Tokens(halves)))).units
    assert [unit.name for unit in units[1:]] == names


def test_layers_of_other_kinds_are_named():
    class Other(Plain):
        def __init__(self) -> None:
            super().__init__()
            self.up, self.bag, self.rnn = nn.ConvTranspose3d(4, 4, 1), nn.EmbeddingBag(2, 2), nn.GRU(2, 2)
            self.table = nn.Embedding(2, 2, max_norm=1.0)

    assert read_denoiser(probe_of(Other())).unsupported == {
        "up": "ConvTranspose3d",
        "bag": "EmbeddingBag",
        "rnn": "GRU",
        "table": "Embedding",
    }


def test_one_time_step_is_refused():
    with pytest.raises(InputError, match=r"^1 distinct time step: at least 2"):
        read_denoiser(probe_of(Plain(), timesteps=(5, 5)))


def test_a_denoiser_that_ignores_its_time_step_is_refused():
    module = Plain()
    module.sines = lambda t: torch.ones(len(t), 8)
    with pytest.raises(InputError, match="does not follow the time step"):
        read_denoiser(probe_of(module))


def test_a_denoiser_whose_time_step_meets_the_sample_first_is_refused():
    class Joined(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.one = nn.Conv2d(4, 4, 1)

        def forward(self, sample: Tensor, t: Tensor) -> Tensor:
            return self.one(sample + t.float().view(-1, 1, 1, 1))

    with pytest.raises(InputError, match="meets the sample before any layer"):
        read_denoiser(probe_of(Joined()))


def test_the_time_step_that_gives_nan_is_named():
    class Bad(Plain):
        def forward(self, x: Tensor, t: Tensor) -> Tensor:
            return super().forward(x, t) / (t != 500)[:, None, None, None] * 0 + 1

    with pytest.raises(NumericsError, match="not finite at time step 500"):
        read_denoiser(probe_of(Bad()))


def test_a_denoiser_that_uses_the_first_item_s_step_for_all_is_refused():
    module = Plain()
    module.sines = lambda t: Plain.sines(module, t[:1].expand(len(t)))
    with pytest.raises(InputError, match=r"batch of mixed time steps .* time step 500"):
        read_denoiser(probe_of(module))


def test_condition_alone_and_with_time():
    class Conditioned(Plain):
        def __init__(self) -> None:
            super().__init__()
            self.c = nn.Linear(3, 8)

        def forward(self, x: Tensor, t: Tensor, *, y: Tensor) -> Tensor:
            emb = self.b(self.a(self.sines(t)) + self.c(y))
            return self.conv(x) + emb[:, :, None, None]

    graph = read_denoiser(probe_of(Conditioned(), conditioning=lambda b, v: {"y": torch.full((b, 3), float(v))}))
    assert categories(graph) == {"a": "temporal", "c": "condition", "b": "temporal+condition", "conv": "image"}
    assert (graph.shared, graph.projections) == (("a",), ("b",))
