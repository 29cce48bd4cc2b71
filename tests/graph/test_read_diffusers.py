"""Reading diffusers' denoisers; all expectations are written by hand from their architectures."""

from graph_models import labels, probe_of, prompts, text_conditional, transformer, unconditional
from tempoquant.graph import AttentionProduct, Category, DenoiserGraph, TimeArgument, Unit, read_denoiser

RESNETS = (
    "down_blocks.0.resnets.0",
    "down_blocks.1.resnets.0",
    "mid_block.resnets.0",
    "mid_block.resnets.1",
    "up_blocks.0.resnets.0",
    "up_blocks.0.resnets.1",
    "up_blocks.1.resnets.0",
    "up_blocks.1.resnets.1",
)
TIME_MLP = ("time_embedding.linear_1", "time_embedding.linear_2")
PROJECTIONS = tuple(f"{name}.time_emb_proj" for name in RESNETS)
SPLITS = {
    "up_blocks.0.resnets.0.conv_shortcut": 16,
    "up_blocks.0.resnets.1.conv_shortcut": 16,
    "up_blocks.1.resnets.0.conv_shortcut": 16,
    "up_blocks.1.resnets.1.conv_shortcut": 8,
}


def of(graph: DenoiserGraph, category: Category) -> list[str]:
    return [layer.name for layer in graph.layers if layer.category is category]


def sdpa(*owners: str) -> tuple[AttentionProduct, ...]:
    return tuple(AttentionProduct(owner, 0, "sdpa") for owner in owners)


def resnet(name: str, shortcut: bool) -> Unit:
    return Unit(name, tuple(f"{name}.{part}" for part in ("conv1", "conv2", "conv_shortcut")[: 2 + shortcut]))


def attention(name: str) -> Unit:
    return Unit(name, tuple(f"{name}.{part}" for part in ("to_q", "to_k", "to_v", "to_out.0")))


def test_unconditional_unet():
    graph = read_denoiser(probe_of(unconditional(), (3, 8, 8)))
    assert [layer.name for layer in graph.layers][:6] == [
        *TIME_MLP,
        "conv_in",
        "down_blocks.0.resnets.0.conv1",
        "down_blocks.0.resnets.0.time_emb_proj",
        "down_blocks.0.resnets.0.conv2",
    ]
    assert [layer.order for layer in graph.layers] == list(range(51))
    assert of(graph, Category.TEMPORAL) == [*TIME_MLP, *PROJECTIONS]
    assert len(of(graph, Category.IMAGE)) == 41
    assert graph.shared == TIME_MLP
    assert graph.projections == PROJECTIONS
    assert graph.shared_inputs == (PROJECTIONS,)
    assert graph.splits == SPLITS
    owners = ("down_blocks.1.attentions.0", "mid_block.attentions.0")
    assert graph.attention == sdpa(*owners, "up_blocks.0.attentions.0", "up_blocks.0.attentions.1")
    assert (graph.unused, graph.unsupported, graph.unreached) == ((), {}, ())
    assert graph.time_argument == TimeArgument(1, "timestep")
    strided = [layer.name for layer in graph.layers if layer.strided]
    assert strided == ["down_blocks.0.downsamplers.0.conv"]


def test_unconditional_unet_units():
    graph = read_denoiser(probe_of(unconditional(), (3, 8, 8)))
    assert graph.units == (
        Unit("conv_in", ("conv_in",)),
        resnet("down_blocks.0.resnets.0", shortcut=False),
        Unit("down_blocks.0.downsamplers.0", ("down_blocks.0.downsamplers.0.conv",)),
        resnet("down_blocks.1.resnets.0", shortcut=True),
        attention("down_blocks.1.attentions.0"),
        resnet("mid_block.resnets.0", shortcut=False),
        attention("mid_block.attentions.0"),
        resnet("mid_block.resnets.1", shortcut=False),
        resnet("up_blocks.0.resnets.0", shortcut=True),
        attention("up_blocks.0.attentions.0"),
        resnet("up_blocks.0.resnets.1", shortcut=True),
        attention("up_blocks.0.attentions.1"),
        Unit("up_blocks.0.upsamplers.0", ("up_blocks.0.upsamplers.0.conv",)),
        resnet("up_blocks.1.resnets.0", shortcut=True),
        resnet("up_blocks.1.resnets.1", shortcut=True),
        Unit("conv_out", ("conv_out",)),
    )


def test_class_conditional_unet():
    graph = read_denoiser(probe_of(unconditional(num_class_embeds=5), (3, 8, 8), labels))
    assert of(graph, Category.TEMPORAL) == [*TIME_MLP]
    assert of(graph, Category.TEMPORAL_CONDITION) == [*PROJECTIONS]
    assert (graph.shared, graph.projections) == (TIME_MLP, PROJECTIONS)
    assert graph.shared_inputs == (PROJECTIONS,)
    assert graph.unsupported == {} and graph.lookups == {"class_embedding": 32}


BLOCKS = (
    "down_blocks.0.attentions.0",
    "mid_block.attentions.0",
    "up_blocks.1.attentions.0",
    "up_blocks.1.attentions.1",
)


def test_text_conditional_unet():
    graph = read_denoiser(probe_of(text_conditional(), (4, 8, 8), prompts))
    assert of(graph, Category.TEMPORAL) == [*TIME_MLP, *PROJECTIONS]
    assert of(graph, Category.TEMPORAL_CONDITION) == []
    assert of(graph, Category.CONDITION) == [
        f"{block}.transformer_blocks.0.attn2.{part}" for block in BLOCKS for part in ("to_k", "to_v")
    ]
    assert (graph.shared, graph.projections, graph.splits) == (TIME_MLP, PROJECTIONS, SPLITS)
    owners = [f"{block}.transformer_blocks.0.{attn}" for block in BLOCKS for attn in ("attn1", "attn2")]
    assert graph.attention == sdpa(*owners)
    assert graph.time_argument == TimeArgument(1, "timestep")


def test_a_transformer_block_is_one_unit_with_its_cross_attention():
    graph = read_denoiser(probe_of(text_conditional(), (4, 8, 8), prompts))
    assert [unit.name for unit in graph.units][:6] == [
        "conv_in",
        "down_blocks.0.resnets.0",
        "down_blocks.0.attentions.0.proj_in",
        "down_blocks.0.attentions.0.transformer_blocks.0",
        "down_blocks.0.attentions.0.proj_out",
        "down_blocks.0.downsamplers.0",
    ]
    block = graph.units[3]
    assert [layer.removeprefix(f"{block.name}.") for layer in block.layers] == [
        "attn1.to_q",
        "attn1.to_k",
        "attn1.to_v",
        "attn1.to_out.0",
        "attn2.to_q",
        "attn2.to_k",
        "attn2.to_v",
        "attn2.to_out.0",
        "ff.net.0.proj",
        "ff.net.2",
    ]


def test_diffusion_transformer_has_one_time_mlp_a_block():
    graph = read_denoiser(probe_of(transformer(), (4, 8, 8), labels))
    embedders = [f"transformer_blocks.{i}.norm1.emb.timestep_embedder" for i in (0, 1)]
    assert graph.shared == tuple(f"{name}.{part}" for name in embedders for part in ("linear_1", "linear_2"))
    assert graph.projections == ("transformer_blocks.0.norm1.linear", "transformer_blocks.1.norm1.linear", "proj_out_1")
    assert of(graph, Category.TEMPORAL) == [*graph.shared]
    assert of(graph, Category.TEMPORAL_CONDITION) == [*graph.projections]
    # The last modulation reuses the first block's embedder, so its layers run twice.
    assert {layer.name: layer.calls for layer in graph.layers if layer.calls > 1} == {
        "transformer_blocks.0.norm1.emb.timestep_embedder.linear_1": 2,
        "transformer_blocks.0.norm1.emb.timestep_embedder.linear_2": 2,
    }
    assert graph.shared_inputs == (("transformer_blocks.0.norm1.linear", "proj_out_1"),)
    assert [unit.name for unit in graph.units] == [
        "pos_embed",
        "transformer_blocks.0",
        "transformer_blocks.1",
        "proj_out_2",
    ]
    block = ("attn1.to_q", "attn1.to_k", "attn1.to_v", "attn1.to_out.0", "ff.net.0.proj", "ff.net.2")
    assert graph.units[1].layers == tuple(f"transformer_blocks.0.{part}" for part in block)
    assert graph.attention == sdpa("transformer_blocks.0.attn1", "transformer_blocks.1.attn1")
