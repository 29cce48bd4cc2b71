"""Attention products: which module runs them, and where."""

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from graph_models import Attend, Plain, Tokens, probe_of
from tempoquant.graph import MATRIX_PRODUCTS, AttentionProduct, read_denoiser


def found(inner: nn.Module, times: int = 1) -> tuple[tuple[AttentionProduct, ...], tuple[str, ...]]:
    graph = read_denoiser(probe_of(Plain(image=Tokens(inner, times))))
    return graph.attention, graph.unreached


def plain(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    return torch.softmax(q @ k.transpose(1, 2) * 0.5, dim=-1) @ v


def masked(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    scores = torch.matmul(q, k.mT) / 2 + torch.zeros(16, 16)
    scores = scores.masked_fill(torch.ones(16, 16).tril() == 0, float("-inf"))
    return torch.matmul(F.dropout(scores.softmax(-1), 0.1, training=False).to(v.dtype), v)


def as_diffusers(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    empty = torch.empty(q.shape[0], 16, 16)
    scores = torch.baddbmm(empty, q, k.transpose(-1, -2), beta=0, alpha=0.5)
    return torch.bmm(scores.softmax(dim=-1), v)


def in_heads(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    q, k, v = (x.unflatten(-1, (2, 2)).transpose(1, 2) for x in (q, k, v))
    return (F.softmax(q @ k.transpose(-1, -2), -1) @ v).transpose(1, 2).flatten(2)


def by_einsum(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    scores = torch.einsum("b i d, b j d -> b i j", q, k)
    return torch.einsum("bij,bjd->bid", scores.softmax(-1), v)


EXPLICIT = {"plain": plain, "masked": masked, "diffusers": as_diffusers, "heads": in_heads, "einsum": by_einsum}


@pytest.mark.parametrize("name", EXPLICIT)
def test_explicit_attention(name: str):
    assert found(Attend(EXPLICIT[name])) == ((AttentionProduct("image.inner", 0, "explicit", (0, 1)),), ())


def test_values_on_the_left_are_flipped():
    def reversed_product(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        weights = torch.softmax(q @ k.mT, -1)
        return torch.bmm(v.mT, weights.mT).mT

    assert found(Attend(reversed_product)) == (
        (AttentionProduct("image.inner", 0, "explicit", (0, 1), flipped=True),),
        (),
    )


def test_other_matrix_products_of_the_owner_are_counted_but_not_named():
    def with_bias(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return plain(q @ torch.eye(4), k, v) @ torch.eye(4)

    assert found(Attend(with_bias))[0] == (AttentionProduct("image.inner", 0, "explicit", (1, 2)),)


def test_two_attentions_of_one_owner():
    def twice(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return plain(plain(q, k, v), k, F.scaled_dot_product_attention(q, k, v))

    assert found(Attend(twice))[0] == (
        AttentionProduct("image.inner", 0, "explicit", (0, 1)),
        AttentionProduct("image.inner", 0, "sdpa"),
        AttentionProduct("image.inner", 1, "explicit", (2, 3)),
    )


@pytest.mark.parametrize("how", [plain, F.scaled_dot_product_attention])
def test_an_owner_called_twice_has_one_product(how):
    attention, unreached = found(Attend(how), times=2)
    assert len(attention) == 1 and unreached == ()


def test_the_denoiser_itself_can_be_the_owner():
    class Root(Plain):
        def forward(self, x: Tensor, t: Tensor) -> Tensor:
            tokens = super().forward(x, t).flatten(2)
            return plain(tokens, tokens, tokens).reshape(x.shape)

    assert read_denoiser(probe_of(Root())).attention == (AttentionProduct("", 0, "explicit", (0, 1)),)


def test_native_multi_head_attention_is_not_reached():
    class Native(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.heads = nn.MultiheadAttention(4, 2, batch_first=True)

        def forward(self, x: Tensor) -> Tensor:
            return self.heads(x, x, x, need_weights=False)[0]

    graph = read_denoiser(probe_of(Plain(image=Tokens(Native()))))
    assert graph.attention == ()
    assert graph.unreached == ("image.inner.heads: attention in one native call",)
    assert graph.unsupported == {"image.inner.heads": "MultiheadAttention"}
    assert [layer.name for layer in graph.layers] == ["a", "b", "conv"] and graph.unused == ()


def broadcast_scores(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    return torch.softmax((q[:, :, None] * k[:, None]).sum(-1), -1) @ v


def item_by_item(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    return torch.stack([w @ x for w, x in zip(torch.softmax(q @ k.mT, -1), v, strict=True)])


def two_values(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    weights = torch.softmax(q @ k.mT, -1)
    return weights @ v + weights @ k


def sliced(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    return torch.cat([plain(*(x[i : i + 1] for x in (q, k, v))) for i in range(len(q))])


def in_place(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    return torch.special.softmax(torch.zeros(len(q), 16, 16).baddbmm_(q, k.mT), -1) @ v


def written_out(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    return torch.bmm(torch.bmm(q, k.mT).softmax(-1), v, out=torch.empty_like(v))


def all_items_at_once(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    q, k, v = (x.flatten(0, 1) for x in (q, k, v))
    own = torch.block_diag(*[torch.ones(16, 16)] * (len(q) // 16)) == 1
    return torch.mm(torch.mm(q, k.T).masked_fill(~own, float("-inf")).softmax(-1), v).unflatten(0, (-1, 16))


def over_tokens(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    return torch.stack([torch.tensordot(w, x, 1) for w, x in zip((q @ k.mT).softmax(-1), v, strict=True)])


def open_einsum(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    return torch.einsum("...ij,...jd->...id", torch.softmax(q @ k.mT, -1), v)


@pytest.mark.parametrize(
    ("how", "why"),
    [
        (broadcast_scores, "its softmax is fed by no matrix product that can be reached"),
        (item_by_item, "its two matrix products are not both reachable"),
        (two_values, "one softmax takes part in several matrix products"),
        (sliced, "its matrix products depend on the size of the batch"),
        (in_place, "its softmax is fed by no matrix product that can be reached"),
        (written_out, "its two matrix products are not both reachable"),
        (all_items_at_once, "its softmax is fed by no matrix product that can be reached"),
        (over_tokens, "its two matrix products are not both reachable"),
        (open_einsum, "its two matrix products are not both reachable"),
    ],
)
def test_what_cannot_be_reached_is_named(how, why: str):
    assert found(Attend(how))[1] == (f"image.inner: {why}",)


def test_products_in_two_modules_are_not_reached():
    class Scores(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return torch.softmax(x @ x.mT, -1)

    class Split(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.scores = Scores()

        def forward(self, x: Tensor) -> Tensor:
            return self.scores(x) @ x

    assert found(Split()) == ((), ("image.inner: its two matrix products are not both reachable",))


def test_a_softmax_after_other_layers_is_no_attention():
    class Gate(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.gate = nn.Linear(16, 16)

        def forward(self, x: Tensor) -> Tensor:
            return torch.softmax(self.gate(x @ x.mT), -1) @ x

    attention, unreached = found(Gate())
    assert attention == () and len(unreached) == 1


LEFT, RIGHT, BIAS = torch.randn(3, 4, 5), torch.randn(3, 5, 2), torch.randn(3, 4, 2)
CALLS = [
    (torch.matmul, (LEFT, RIGHT), {}),
    (torch.Tensor.__rmatmul__, (RIGHT, LEFT), {}),
    (torch.bmm, (), {"mat2": RIGHT, "input": LEFT}),
    (torch.matmul, (LEFT,), {"other": RIGHT}),
    (torch.linalg.matmul, (LEFT, RIGHT), {}),
    (torch.mm, (LEFT[0], RIGHT[0]), {}),
    (torch.baddbmm, (BIAS, LEFT, RIGHT), {"beta": 0.5, "alpha": 2}),
    (torch.baddbmm, (BIAS * torch.nan, LEFT, RIGHT), {"beta": 0}),
    (torch.baddbmm, (), {"input": BIAS, "batch1": LEFT, "batch2": RIGHT}),
    (torch.einsum, ("bij,bjk->bik", LEFT, RIGHT), {}),
    (torch.einsum, ("b i j, b j k -> b k i", [LEFT, RIGHT]), {}),
    (torch.einsum, ("bij,cjk->bick", LEFT, RIGHT), {}),
    (torch.einsum, ("bijh,bkjh->bhik", torch.randn(2, 3, 4, 5), torch.randn(2, 6, 4, 5)), {}),
]


@pytest.mark.parametrize("call", CALLS, ids=lambda call: call[0].__name__)
def test_a_product_can_be_put_in_the_place_of_every_matrix_function(call):
    func, args, kwargs = call
    torch.testing.assert_close(MATRIX_PRODUCTS[func](torch.matmul, *args, **kwargs), func(*args, **kwargs))
