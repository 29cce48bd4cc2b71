"""Model families: chosen by the denoiser's class, from a plugin's file, or observed; each quantizes and draws."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import (
    AuraFlowPipeline,
    AuraFlowTransformer2DModel,
    ChromaPipeline,
    ChromaTransformer2DModel,
    ConfigMixin,
    DDIMPipeline,
    DiffusionPipeline,
    FlowMatchEulerDiscreteScheduler,
    ImagePipelineOutput,
    ModelMixin,
    UNet2DModel,
)
from diffusers.configuration_utils import register_to_config
from diffusers.utils.torch_utils import randn_tensor
from torch import Tensor, nn

import tempoquant
from conditional_models import dit_pipeline, large_text_pipeline, scheduler, text_pipeline
from family_models import (
    HEADS,
    TEXT,
    WIDTH,
    filled,
    flux_pipeline,
    pixart_pipeline,
    sd3_pipeline,
    t5,
    vae,
)
from tempoquant.errors import FormatError, InputError
from tempoquant.methods import method_recipe
from tempoquant.pipelines import FAMILIES, DenoiserCall, DiffusersModel, resolve
from tempoquant.pipelines.call import Arguments, joined, read_call
from tempoquant.pipelines.families.flow import token_shift
from tempoquant.plugins import load_plugins
from tempoquant.recording import Store, record
from tempoquant.sampling import Denoiser, Unbatched
from tempoquant.sampling.sampling import sample
from tiny import unet_pipeline

STEPS = 3
PROMPTS = ["a b", "c d", "e d", "h a"]
FLUX = {"prompt": PROMPTS, "height": 16, "width": 16, "max_sequence_length": 8}
GUIDED = {"prompt": PROMPTS, "guidance_scale": 3.0}
PIXART = {**GUIDED, "max_sequence_length": 8, "clean_caption": False, "use_resolution_binning": False}


def small_recipe() -> tempoquant.Recipe:
    return method_recipe("tfmq-dm", calibration={"samples": 4, "steps": STEPS, "rows": 6, "rows_per_step": 3})


def first(conditioning: dict[str, Any], count: int) -> dict[str, Any]:
    return {name: value[:count] if isinstance(value, list) else value for name, value in conditioning.items()}


def calls_of(model: Any, conditioning: dict[str, Any], count: int = 2) -> list[DenoiserCall]:
    calls: list[DenoiserCall] = []
    run = {"steps": STEPS, "seed": 0, "batch_size": count}
    model.run_trajectories(count, calls.append, conditioning=first(conditioning, count) or None, **run)
    return calls


def check_whole_way(pipe: Any, conditioning: dict[str, Any], folder: Path) -> Any:
    """Quantize, save, load and draw the same bits, near full precision; the result before saving."""
    result = tempoquant.quantize(pipe, small_recipe(), out=folder / "out", conditioning=conditioning)
    run = {"steps": STEPS, "seed": 7, "conditioning": conditioning}
    images, full = result.generate(4, **run), resolve(pipe).generate(4, **run)
    assert torch.isfinite(images).all() and images.shape == full.shape
    # Four-bit weights are seen, and change little.
    assert 0 < (images - full).abs().mean() < 0.1 * full.std()
    assert torch.equal(images, tempoquant.load(folder / "out").generate(4, **run))
    return result


@pytest.mark.parametrize(
    ("make", "conditioning", "name", "shape"),
    [
        (lambda folder: unet_pipeline(), {}, "unet", (1, 8, 8)),
        (text_pipeline, GUIDED, "unet", (4, 16, 16)),
        (large_text_pipeline, GUIDED, "unet", (4, 16, 16)),
        (lambda folder: dit_pipeline(), {"class_labels": [1, 2, 3, 4]}, "transformer2d", (4, 16, 16)),
        (pixart_pipeline, PIXART, "transformer2d", (4, 8, 8)),
        (sd3_pipeline, GUIDED, "sd3", (4, 8, 8)),
        (lambda folder: sd3_pipeline(folder, dynamic=True), GUIDED, "sd3", (4, 8, 8)),
        (flux_pipeline, FLUX, "flux", (16, 4)),
        (lambda folder: flux_pipeline(folder, guidance=False, dynamic=False), FLUX, "flux", (16, 4)),
    ],
)
def test_what_a_family_says_is_what_its_pipeline_does(tmp_path, make, conditioning, name, shape):
    model = resolve(make(tmp_path))
    sized = model.for_conditioning(conditioning or None)
    assert (model.family.name, sized.denoiser.sample_shape) == (name, shape)
    calls = calls_of(sized, conditioning)
    assert [call.k for call in calls] == list(range(STEPS))
    assert all(call.sample.shape[1:] == shape for call in calls)
    # Bit for bit: tables have rows for these.
    assert torch.equal(sized.timesteps(STEPS, conditioning=conditioning), torch.stack([call.t[0] for call in calls]))
    with torch.no_grad():
        again = sized.denoiser(calls[1].sample, calls[1].t, **calls[1].conditioning)
    assert again.shape[:1] == calls[1].sample.shape[:1] and again.shape[2:] == shape[1:]


@pytest.mark.parametrize(("make", "conditioning"), [(pixart_pipeline, PIXART), (sd3_pipeline, GUIDED)])
def test_a_transformer_goes_the_whole_way(brief, tmp_path, make, conditioning):
    check_whole_way(make(tmp_path), conditioning, tmp_path)


def test_flux_goes_the_whole_way(brief, tmp_path):
    result = check_whole_way(flux_pipeline(tmp_path), FLUX, tmp_path)
    facts = json.loads((tmp_path / "out" / "tempoquant.json").read_text())
    assert facts["sample_shape"] == [16, 4]
    # The time step's two layers alone; one prompt's pooled vector and the guidance join them in all modulation.
    assert facts["layers"]["temporal"] == 2 and facts["layers"]["temporal+condition"] == 7
    assert result.timesteps.max() == 1 and len(result.timesteps) == STEPS


def test_packed_latents_become_the_pipelines_own_pixels(tmp_path):
    pipe = flux_pipeline(tmp_path)
    model = resolve(pipe)
    tokens = torch.randn(2, 16, 4, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        latents = pipe._unpack_latents(tokens, 16, 16, pipe.vae_scale_factor)
        pixels = pipe.vae.decode(latents / 0.4 + 0.1, return_dict=False)[0]
    torch.testing.assert_close(model.decode(tokens), pixels, rtol=1e-4, atol=1e-5)
    assert model.for_conditioning(first(FLUX, 1)).pixel_shape == (3, 16, 16)
    assert model.encode(pixels).shape == tokens.shape
    # 24 tokens: no square.
    with pytest.raises(InputError, match="24 tokens are no square image"):
        model.decode(torch.randn(1, 24, 4))


def test_a_shifted_autoencoder_is_shifted_both_ways(tmp_path):
    pipe = sd3_pipeline(tmp_path)
    latents = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        pixels = pipe.vae.decode(latents / 0.4 + 0.1, return_dict=False)[0]
        mean = pipe.vae.encode(pixels).latent_dist.mode()
    model = resolve(pipe)
    torch.testing.assert_close(model.decode(latents), pixels, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(model.encode(pixels), (mean - 0.1) * 0.4, rtol=1e-4, atol=1e-5)


def test_the_shift_follows_the_number_of_tokens():
    # base_shift at 256 tokens, max_shift at 4096, on a line between and beyond.
    assert token_shift({}, 256) == pytest.approx(0.5) and token_shift({}, 4096) == pytest.approx(1.15)
    assert token_shift({"base_shift": 0.25, "max_shift": 0.75}, 2176) == pytest.approx(0.5)


def test_places_of_tokens_are_recorded_once(tmp_path):
    model = resolve(flux_pipeline(tmp_path))
    sized = model.for_conditioning(FLUX)
    store = record(model, tmp_path / "recording", samples=4, steps=STEPS, seed=0, batch_size=2, conditioning=FLUX)
    manifest = json.loads((tmp_path / "recording" / "manifest.json").read_text())
    entries = {entry["name"]: entry for entry in manifest["conditioning"]}
    assert manifest["format"] == 2 and entries["img_ids"]["stored"] == [1, 1, 16 * 3 * 4]
    assert entries["guidance"]["stored"] == [4, 1, 4] and "batched" not in entries["guidance"]
    sample_, t, conditioning = Store(tmp_path / "recording").read(torch.tensor([2, 0, 1]), torch.tensor([3, 0, 0]))
    assert sample_.shape == (3, 16, 4) and conditioning["encoder_hidden_states"].shape == (3, 8, TEXT)
    call = calls_of(sized, FLUX)[0]
    places = conditioning["img_ids"]
    assert isinstance(places, Unbatched) and torch.equal(places.value, call.conditioning["img_ids"].value)
    assert torch.equal(conditioning["guidance"], torch.full((3,), 3.5)) and len(store) == 4 * STEPS
    with torch.no_grad():
        assert sized.denoiser(sample_, t, **conditioning).shape == (3, 16, 4)
    # Another size is another recording.
    with pytest.raises(InputError, match="holds another recording"):
        record(model, tmp_path / "recording", samples=4, steps=STEPS, seed=0, conditioning={**FLUX, "height": 32})


def test_a_recording_without_such_places_is_of_the_first_format(tmp_path):
    record(resolve(unet_pipeline()), tmp_path / "recording", samples=2, steps=2, seed=0)
    manifest = json.loads((tmp_path / "recording" / "manifest.json").read_text())
    assert manifest["format"] == 1 and "constants" not in manifest


def test_another_size_of_a_unet_is_recorded_at_that_size(brief, tmp_path):
    conditioning = {**GUIDED, "height": 8, "width": 32}
    model = resolve(text_pipeline(tmp_path))
    assert model.for_conditioning(conditioning).denoiser.sample_shape == (4, 8, 32)
    result = tempoquant.quantize(model, small_recipe(), conditioning=conditioning)
    assert result.facts["sample_shape"] == [4, 8, 32]
    assert result.generate(4, steps=STEPS, seed=0, conditioning=conditioning).shape == (4, 3, 8, 32)


class TokenDenoiser(ModelMixin, ConfigMixin):
    """A denoiser of no family: tokens, places without a batch, a time step of its own name, and a constant."""

    @register_to_config
    def __init__(self, channels: int = 4, width: int = 16):
        super().__init__()
        self.enter, self.place = nn.Linear(channels, width), nn.Linear(2, width)
        self.time_in, self.time_out = nn.Linear(2, width), nn.Linear(width, width)
        self.text, self.leave = nn.Linear(3, width), nn.Linear(width, channels)

    def forward(self, x: Tensor, words: Tensor, places: Tensor, sigma: Tensor, scale: float = 1.0) -> Tensor:
        time = self.time_out(nn.functional.silu(self.time_in(torch.stack([sigma.sin(), sigma.cos()], 1))))
        h = self.enter(x) + self.place(places) + time[:, None] + scale * self.text(words)[:, None]
        return self.leave(nn.functional.silu(h))


class TokenPipeline(DiffusionPipeline):
    """Guidance in two calls a step, one after the other."""

    def __init__(self, core: TokenDenoiser, scheduler: Any):
        super().__init__()
        self.register_modules(core=core, scheduler=scheduler)

    @torch.no_grad()
    def __call__(
        self,
        prompt: list[str],
        num_inference_steps: int,
        generator: Any = None,
        output_type: str = "pt",
        tokens: int = 6,
    ):
        words = torch.tensor([[float(ord(c) % 7) for c in f"{text}   "[:3]] for text in prompt])
        places = torch.arange(2.0 * tokens).view(tokens, 2) / tokens
        x = randn_tensor((len(prompt), tokens, 4), generator=generator)
        self.scheduler.set_timesteps(num_inference_steps)
        for t in self.scheduler.timesteps:
            sigma = (t / 1000).expand(len(prompt))
            within, without = (self.core(x, words=w, places=places, sigma=sigma, scale=0.5) for w in (words, 0 * words))
            x = self.scheduler.step(without + 2 * (within - without), t, x).prev_sample
        return ImagePipelineOutput(images=x)


def token_pipeline() -> TokenPipeline:
    return TokenPipeline(filled(TokenDenoiser()), FlowMatchEulerDiscreteScheduler())


def test_a_pipeline_of_an_unknown_family_is_observed(brief):
    pipe, conditioning = token_pipeline(), {"prompt": PROMPTS}
    model = resolve(pipe)
    sized = model.for_conditioning(conditioning)
    assert (model.component, model.denoiser.sample_shape) == ("core", ())
    assert sized.denoiser.sample_shape == (6, 4)
    assert sized.family.arguments == Arguments("x", "sigma", ("places",))
    calls = calls_of(sized, conditioning)
    # Both branches, one called after the other, are one call of a step.
    assert [call.k for call in calls] == [0, 1, 2] and calls[0].sample.shape == (4, 6, 4)
    assert calls[0].indices.tolist() == [0, 1, 0, 1] and not calls[0].conditioning["words"][2:].any()
    assert calls[0].conditioning["scale"].value == 0.5
    assert torch.equal(sized.timesteps(STEPS, conditioning=conditioning), torch.stack([c.t[0] for c in calls]))
    result = tempoquant.quantize(pipe, small_recipe(), conditioning=conditioning)
    # The last has two layers that nothing but time reaches.
    assert result.facts["layers"]["temporal"] == 2 and result.facts["sample_shape"] == [6, 4]
    run = {"steps": STEPS, "seed": 7, "conditioning": conditioning}
    images, full = result.generate(4, **run), model.generate(4, **run)
    assert 0 < (images - full).abs().mean() < 0.1 * full.std()
    assert torch.equal(images[3:], result.generate([3], **{**run, "conditioning": {"prompt": PROMPTS[3:]}}))
    with pytest.raises(InputError, match="how samples of a TokenPipeline become pixels is not known"):
        model.decode(images)


class NoisePipeline(DiffusionPipeline):
    """Draws from noise alone, in a loop of its own."""

    def __init__(self, core: TokenDenoiser, scheduler: Any):
        super().__init__()
        self.register_modules(core=core, scheduler=scheduler)

    @torch.no_grad()
    def __call__(self, batch_size: int = 1, num_inference_steps: int = 2, generator: Any = None) -> Any:
        x, places = randn_tensor((batch_size, 6, 4), generator=generator), torch.arange(12.0).view(6, 2) / 6
        self.scheduler.set_timesteps(num_inference_steps)
        for t in self.scheduler.timesteps:
            velocity = self.core(x, torch.zeros(batch_size, 3), places, (t / 1000).expand(batch_size))
            x = self.scheduler.step(velocity, t, x).prev_sample
        return ImagePipelineOutput(images=x)


def test_an_unknown_pipeline_that_draws_from_noise_is_observed_too(brief):
    pipe = NoisePipeline(filled(TokenDenoiser()), FlowMatchEulerDiscreteScheduler())
    result = tempoquant.quantize(pipe, small_recipe())
    assert result.facts["sample_shape"] == [6, 4] and not resolve(pipe).conditional
    images, full = (model.generate(4, steps=STEPS, seed=7) for model in (result, resolve(pipe)))
    assert 0 < (images - full).abs().mean() < 0.1 * full.std()


def test_watching_leaves_an_unknown_pipeline_as_it_was():
    pipe = token_pipeline()
    before = dict(vars(pipe.core))
    model = resolve(pipe).for_conditioning({"prompt": PROMPTS})
    model.timesteps(STEPS, conditioning={"prompt": PROMPTS})
    assert model.pixel_shape == (6, 4)
    assert vars(pipe.core).keys() == before.keys() and not pipe.core._forward_pre_hooks


def aura_flow(folder: Path) -> tuple[Any, dict[str, Any]]:
    transformer = AuraFlowTransformer2DModel(
        sample_size=8, patch_size=2, in_channels=4, num_mmdit_layers=1, num_single_dit_layers=1, out_channels=4,
        attention_head_dim=WIDTH, num_attention_heads=HEADS, caption_projection_dim=HEADS * WIDTH,
        joint_attention_dim=TEXT, pos_embed_max_size=16,
    )  # fmt: skip
    parts = {"tokenizer": text_pipeline(folder).tokenizer, "text_encoder": t5(), "vae": vae(4, 1)}
    pipe = AuraFlowPipeline(**parts, transformer=filled(transformer), scheduler=FlowMatchEulerDiscreteScheduler())
    return pipe, {"prompt": PROMPTS, "height": 8, "width": 8, "max_sequence_length": 8}


def chroma(folder: Path) -> tuple[Any, dict[str, Any]]:
    transformer = ChromaTransformer2DModel(
        patch_size=1, in_channels=4, num_layers=1, num_single_layers=1, attention_head_dim=WIDTH,
        num_attention_heads=HEADS, joint_attention_dim=TEXT, axes_dims_rope=(2, 2, 4), approximator_hidden_dim=16,
        approximator_layers=1, approximator_num_channels=16,
    )  # fmt: skip
    parts = {"tokenizer": text_pipeline(folder).tokenizer, "text_encoder": t5(), "vae": vae(1, 2, shift_factor=0.1)}
    pipe = ChromaPipeline(**parts, transformer=filled(transformer), scheduler=FlowMatchEulerDiscreteScheduler())
    return pipe, {"prompt": PROMPTS, "height": 16, "width": 16, "max_sequence_length": 8}


@pytest.mark.parametrize(("make", "shape"), [(aura_flow, (4, 8, 8)), (chroma, (16, 4))])
def test_families_of_diffusers_that_nobody_wrote_go_the_whole_way(brief, tmp_path, make, shape):
    pipe, conditioning = make(tmp_path)
    model = resolve(pipe)
    assert model.family.name == "observed" and model.for_conditioning(conditioning).denoiser.sample_shape == shape
    check_whole_way(pipe, conditioning, tmp_path)


PLUGIN = """
from tempoquant.pipelines import Arguments, Family, family


@family("tokens", "TokenDenoiser")
class Tokens(Family):
    components = ("core",)
    arguments = Arguments("x", "sigma", ("places",))

    def sample_shape(self, pipe, module):
        return (6, module.config["channels"])

    def timesteps(self, pipe, scheduler, steps, conditioning):
        return super().timesteps(pipe, scheduler, steps, conditioning) / 1000

    def call(self, module, sample, timestep, **conditioning):
        return module(sample, sigma=timestep, **conditioning)

    def decode(self, pipe, x):
        return x
"""


@pytest.fixture
def plugin(tmp_path, fresh_registries):
    path = tmp_path / "tokens.py"
    path.write_text(PLUGIN)
    load_plugins([path])


def test_a_family_in_a_file_of_its_own(brief, plugin):
    pipe, conditioning = token_pipeline(), {"prompt": PROMPTS}
    model = resolve(pipe)
    assert model.family.name == "tokens" and model.denoiser.sample_shape == (6, 4)
    result = tempoquant.quantize(pipe, small_recipe(), conditioning=conditioning)
    run = {"steps": STEPS, "seed": 7, "conditioning": conditioning}
    images, full = result.generate(4, **run), model.generate(4, **run)
    assert 0 < (images - full).abs().mean() < 0.1 * full.std()
    assert torch.equal(model.decode(images), images)


def test_a_family_is_registered_once(plugin, tmp_path):
    for text, said in (
        (PLUGIN, "family 'tokens' exists already"),
        (PLUGIN.replace('"tokens"', '"others"'), "a family of TokenDenoiser exists already"),
    ):
        (tmp_path / "again.py").write_text(text)
        with pytest.raises(InputError, match=said):
            load_plugins([tmp_path / "again.py"])


def test_a_known_family_of_a_users_own_unet():
    class Own(UNet2DModel):
        """Known by the class that it derives from."""

    pipe = unet_pipeline()
    pipe.unet.__class__ = Own
    assert DiffusersModel(pipe).family is FAMILIES["unet"]


class Picture(DiffusionPipeline):
    """Draws from a picture that it must be given."""

    def __init__(self, unet: nn.Module, scheduler: Any):
        super().__init__()
        self.register_modules(unet=unet, scheduler=scheduler)

    def __call__(self, image: Any, num_inference_steps: int = 2):
        raise ValueError(f"no picture: {image!r}")


class TwoUnets(DiffusionPipeline):
    def __init__(self, unet: nn.Module, transformer: nn.Module, scheduler: Any):
        super().__init__()
        self.register_modules(unet=unet, transformer=transformer, scheduler=scheduler)


def test_what_is_not_supported_is_refused_in_one_line(tmp_path):
    unet = unet_pipeline().unet
    with pytest.raises(InputError, match="Picture needs conditioning: give 'image', one a sample"):
        tempoquant.quantize(Picture(unet, scheduler()), small_recipe())
    with pytest.raises(InputError, match="no single unet or transformer to quantize but 2: transformer, unet"):
        resolve(TwoUnets(unet, dit_pipeline().transformer, scheduler()))
    with pytest.raises(InputError, match=r"none of its parts takes a time step\); it holds: core, scheduler"):
        resolve(TokenPipeline(nn.Linear(1, 1), scheduler()))
    with pytest.raises(InputError, match=r"of no known .*, tokens raises TypeError: .*\(conditioning\)"):
        resolve(token_pipeline()).for_conditioning({"prompt": ["a"], "tokens": "six"})
    flux = resolve(flux_pipeline(tmp_path))
    with pytest.raises(InputError, match="steps 0 is out of range: this schedule takes 1 to 1000"):
        flux.timesteps(0, conditioning=FLUX)
    with pytest.raises(InputError, match="DDIMScheduler cannot be used with its settings"):
        flux.timesteps(2, sampler="ddim", conditioning=FLUX)


class Takes(nn.Module):
    def forward(self, x: Any, timestep: Any, words: Any = None) -> Any:
        return x


def test_calls_that_no_batch_can_hold_are_refused():
    arguments, x = Arguments("x"), torch.zeros(2, 3)
    with pytest.raises(InputError, match="a list as x for 2 samples: a tensor of one or more rows a sample"):
        read_call(arguments, 0, [0, 1], Takes(), ([x, x], 1), {})
    with pytest.raises(InputError, match=r"time steps of shape \(2, 3\) for 2 rows"):
        read_call(arguments, 0, [0, 1], Takes(), (x, torch.zeros(2, 3)), {})
    long, short = (read_call(arguments, 0, [0, 1], Takes(), (x, 1), {"words": torch.zeros(2, n)}) for n in (4, 3))
    with pytest.raises(InputError, match=r"take words of unlike form \(tensor of shape \(2, 4\) and tensor of shape"):
        joined([long, short])
    assert joined([long, long]).conditioning["words"].shape == (4, 4)


def test_a_bare_denoiser_of_flow_matching_is_drawn():
    """The Euler steps of the probability flow, by hand: x goes down by (sigma - sigma') v."""

    class Velocity(nn.Module):
        def forward(self, x: Tensor, t: Tensor) -> Tensor:
            return x * t.view(-1, 1) / 1000

    flow = FlowMatchEulerDiscreteScheduler()
    drawn = sample(Denoiser(Velocity(), flow, (5,)), samples=2, steps=2, seed=3)
    start = sample(Denoiser(Velocity(), flow, (5,), call=lambda m, x, t: 0 * x), samples=2, steps=1, seed=3)
    flow.set_timesteps(2)
    one, two, end = flow.sigmas.tolist()
    assert (one, end) == (1.0, 0.0)
    middle = start - (one - two) * start * one
    torch.testing.assert_close(drawn, middle - (two - end) * middle * two)


def test_a_folder_of_a_class_that_diffusers_lacks_says_so(brief, tmp_path):
    tempoquant.quantize(token_pipeline(), small_recipe(), out=tmp_path / "out", conditioning={"prompt": PROMPTS})
    with pytest.raises(FormatError, match="diffusers has no model class 'TokenDenoiser'"):
        tempoquant.load(tmp_path / "out")


def test_ddim_pipelines_keep_their_loop():
    assert resolve(DDIMPipeline(unet_pipeline().unet, scheduler())).plain
    assert not resolve(token_pipeline()).plain
