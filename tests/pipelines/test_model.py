import json

import pytest
import torch
from diffusers import DDIMPipeline, LDMPipeline, VQModel

from tempoquant.errors import InputError, NumericsError
from tempoquant.pipelines import BareModel, DiffusersModel
from tempoquant.sampling.noise import noise
from tempoquant.sampling.sampling import sample


def test_unconditional_pipeline_agrees_with_diffusers_own_loop(ddim_pipe):
    target = DiffusersModel(ddim_pipe)
    ours = target.generate(2, steps=3, seed=4)
    start = torch.stack([noise((1, 8, 8), 4, i) for i in range(2)])
    ddim_pipe.scheduler.set_timesteps(3)
    x = start
    with torch.no_grad():
        for t in ddim_pipe.scheduler.timesteps:
            x = ddim_pipe.scheduler.step(ddim_pipe.unet(x, t).sample, t, x).prev_sample
    torch.testing.assert_close(ours, x)
    assert (target.component, target.conditional, target.denoiser.sample_shape) == ("unet", False, (1, 8, 8))
    with pytest.raises(InputError, match="unconditional: it takes no prompt"):
        target.generate(1, steps=1, seed=0, conditioning={"prompt": ["a"]})


def test_shell_and_denoiser_make_a_diffusers_folder(ddim_pipe, tmp_path):
    target = DiffusersModel(ddim_pipe)
    target.save_shell(tmp_path)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["model_index.json", "scheduler"]
    assert json.loads((tmp_path / "model_index.json").read_text())["unet"] == ["diffusers", "UNet2DModel"]
    target.denoiser.module.save_pretrained(tmp_path / "unet")
    loaded = DDIMPipeline.from_pretrained(tmp_path)
    # Not bit for bit: loaded weights may lie at other memory alignments, which choose other CPU kernels.
    again = DiffusersModel(loaded).generate(1, steps=2, seed=0)
    torch.testing.assert_close(again, target.generate(1, steps=2, seed=0), rtol=1e-4, atol=1e-5)


def test_with_module_leaves_the_users_pipeline_alone(ddim_pipe, tmp_path):
    unet, config = ddim_pipe.unet, dict(ddim_pipe.config)

    class Other(torch.nn.Module):
        config = unet.config

        def forward(self, x, timestep, return_dict):
            return (x * 0,)

    other = DiffusersModel(ddim_pipe).with_module(Other())
    assert ddim_pipe.unet is unet and dict(ddim_pipe.config) == config
    assert not torch.equal(other.generate(1, steps=2, seed=0), DiffusersModel(ddim_pipe).generate(1, steps=2, seed=0))
    other.save_shell(tmp_path)
    assert json.loads((tmp_path / "model_index.json").read_text())["unet"] == ["diffusers", "UNet2DModel"]


def test_latents_of_an_unconditional_pipeline_are_decoded(ddim_pipe, tmp_path):
    vq = VQModel(in_channels=1, out_channels=1, block_out_channels=(8,), norm_num_groups=4, latent_channels=1).eval()
    target = DiffusersModel(LDMPipeline(vqvae=vq, unet=ddim_pipe.unet, scheduler=ddim_pipe.scheduler))
    latents = sample(target.denoiser, samples=2, steps=2, seed=0)
    with torch.no_grad():
        wanted = vq.decode(latents / vq.config.scaling_factor).sample
    torch.testing.assert_close(target.generate(2, steps=2, seed=0), wanted, rtol=1e-4, atol=1e-5)
    target.save_shell(tmp_path)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["model_index.json", "scheduler", "vqvae"]


def test_bare_target(toy, tmp_path):
    target = BareModel(toy)
    assert torch.equal(target.generate(2, steps=2, seed=0), sample(toy, samples=2, steps=2, seed=0))
    target.save_shell(tmp_path)
    assert [p.name for p in tmp_path.iterdir()] == ["scheduler"]
    assert target.with_module(torch.nn.Identity()).denoiser.module is not toy.module
    seen = []
    target.run_trajectories(
        [4, 2], seen.append, steps=2, seed=0, batch_size=1, conditioning={"shift": torch.tensor([1.0, 2.0])}
    )
    assert [(s.k, s.indices.tolist(), s.conditioning["shift"].tolist()) for s in seen] == [
        (0, [4], [1.0]),
        (1, [4], [1.0]),
        (0, [2], [2.0]),
        (1, [2], [2.0]),
    ]


def test_text_pipeline_samples_do_not_depend_on_the_batch(text_pipe):
    target = DiffusersModel(text_pipe)
    options = {"steps": 2, "seed": 3, "eta": 1.0}
    prompts = ["a b", "c", "d e f"]
    together = target.generate(3, conditioning={"prompt": prompts, "guidance_scale": 3.0}, **options)
    alone = target.generate([2], conditioning={"prompt": prompts[2:], "guidance_scale": 3.0}, **options)
    assert together.shape == (3, 3, 8, 8) and together.min() >= -1 and together.max() <= 1
    torch.testing.assert_close(together[2:], alone, rtol=1e-4, atol=1e-4)
    assert torch.equal(text_pipe.scheduler.timesteps, DiffusersModel(text_pipe).denoiser.scheduler.timesteps)


def test_text_pipeline_shows_both_branches(text_pipe):
    target = DiffusersModel(text_pipe)
    seen = []
    target.run_trajectories(2, seen.append, steps=2, seed=3, conditioning={"prompt": ["a", "b"]}, sampler="plms")
    assert [s.k for s in seen] == [0, 1, 2]
    first = seen[0]
    assert first.sample.shape == (4, 4, 8, 8) and first.indices.tolist() == [0, 1, 0, 1]
    # The pipeline moves its schedule by one step, and so do samplers that are made from it.
    assert first.t.tolist() == [51] * 4
    assert list(first.conditioning) == ["encoder_hidden_states"]
    assert first.conditioning["encoder_hidden_states"].shape == (4, 8, 8)
    assert torch.equal(first.sample[0], noise((4, 8, 8), 3, 0))
    with torch.no_grad():
        again = target.denoiser(first.sample, first.t, **first.conditioning)
    assert again.shape == first.sample.shape


def test_text_pipeline_needs_prompts(text_pipe):
    target = DiffusersModel(text_pipe)
    assert target.conditional
    with pytest.raises(InputError, match="needs conditioning: give 'prompt'"):
        target.generate(1, steps=1, seed=0)
    with pytest.raises(InputError, match="prompt has 1 entries for 2 samples"):
        target.generate(2, steps=1, seed=0, conditioning={"prompt": ["a"]})
    with pytest.raises(InputError, match="unknown conditioning 'promt': did you mean prompt"):
        target.generate(1, steps=1, seed=0, conditioning={"prompt": ["a"], "promt": ["a"]})


def test_text_shell_holds_all_but_the_denoiser(text_pipe, tmp_path):
    DiffusersModel(text_pipe).save_shell(tmp_path / "out")
    names = sorted(p.name for p in (tmp_path / "out").iterdir())
    assert names == ["model_index.json", "scheduler", "text_encoder", "tokenizer", "vae"]


def test_class_pipeline(dit_pipe):
    target = DiffusersModel(dit_pipe)
    assert (target.component, target.conditional) == ("transformer", True)
    calls = []
    x = target.generate(
        3,
        steps=2,
        seed=0,
        batch_size=2,
        conditioning={"class_labels": [1, 2, 3]},
        step_callback=lambda *c: calls.append(c),
    )
    assert x.shape == (3, 3, 4, 4) and len(calls) == 4
    assert [c[2].tolist() for c in calls] == [[0, 1, 0, 1], [0, 1, 0, 1], [2, 2], [2, 2]]
    seen = []
    target.run_trajectories(1, seen.append, steps=1, seed=0, conditioning={"class_labels": [5]})
    assert seen[0].conditioning["class_labels"].tolist() == [5, 1000]


def test_step_noise_of_a_pipeline_without_generators_is_keyed_too(dit_pipe):
    target = DiffusersModel(dit_pipe)
    options = {"steps": 3, "seed": 0, "sampler": "ddpm"}
    together = target.generate(2, conditioning={"class_labels": [1, 2]}, **options)
    torch.rand(5)
    alone = target.generate([1], conditioning={"class_labels": [2]}, **options)
    torch.testing.assert_close(together[1:], alone, rtol=1e-4, atol=1e-4)


def test_eta_needs_a_pipeline_that_takes_it(dit_pipe):
    with pytest.raises(InputError, match=r"eta 0.5 cannot be given to DiTPipeline"):
        DiffusersModel(dit_pipe).generate(1, steps=1, seed=0, eta=0.5, conditioning={"class_labels": [1]})


def test_nan_in_a_pipeline_names_its_step(dit_pipe):
    with torch.no_grad():
        next(iter(dit_pipe.transformer.parameters())).fill_(torch.nan)
    with pytest.raises(NumericsError, match=r"not finite at step 0 \(t = 50\)"):
        DiffusersModel(dit_pipe).generate(1, steps=2, seed=0, conditioning={"class_labels": [1]})
