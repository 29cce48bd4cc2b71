"""One loaded model, drawn from in four threads at once: the same bits as one after the other, nothing left behind."""

import sys
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from diffusers import DDIMPipeline, DDIMScheduler, DiffusionPipeline

import tempoquant
from conditional_models import dit_pipeline, text_pipeline
from tiny import bare_denoiser, small_recipe, unet_pipeline

THREADS = 4
IMAGES = 8


@pytest.fixture(autouse=True)
def often():
    """Threads take turns after so few instructions that every one of them is caught within a call of the other."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    yield
    sys.setswitchinterval(before)


def at_once(*tasks):
    """Results of functions, each run in a thread of its own; they start together."""
    together = threading.Barrier(len(tasks))

    def started(task):
        together.wait()
        return task()

    with ThreadPoolExecutor(len(tasks)) as pool:
        return [future.result() for future in [pool.submit(started, task) for task in tasks]]


def check(draw):
    """Whether ``draw(seed)`` gives every thread the bits that it gives alone."""
    alone = [draw(seed) for seed in range(THREADS)]
    found = at_once(*(lambda seed=seed: draw(seed) for seed in range(THREADS)))
    wrong = sum(int((a != b).flatten(1).any(1).sum()) for a, b in zip(alone, found, strict=True))
    assert wrong == 0, f"{wrong} of {THREADS * IMAGES} images are wrong"


def wrapped(module):
    """What stands in the place of parts' ``forward``, and how many hooks they have."""
    parts = module.modules()
    return [(vars(part).get("forward"), len(part._forward_hooks), len(part._forward_pre_hooks)) for part in parts]


def per_step(method="rtn", **changes):
    recipe = small_recipe(method, **changes)
    return recipe.model_copy(update={"activations": recipe.activations.model_copy(update={"steps": "per-step"})})


def frozen():
    made = tempoquant.quantize(unet_pipeline(), per_step())
    made.freeze_schedule()
    return made


MODELS = {
    "W8A8 per step": lambda: tempoquant.quantize(unet_pipeline(), per_step(weights=8, activations=8)),
    "frozen": frozen,
    "cached features": lambda: tempoquant.quantize(unet_pipeline(), small_recipe("tfmq-cache")),
    "corrected": lambda: tempoquant.quantize(bare_denoiser(), per_step("rtn", correction={"kind": "correlated"})),
}


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("engine", ["auto", "simulation"])
def test_generate(name, engine):
    made = MODELS[name]()
    made.use_engine(engine)
    before = wrapped(made.denoiser.module)
    eta = 1.0 if name == "corrected" else 0.0
    check(lambda seed: made.generate(IMAGES, steps=4, seed=seed, eta=eta, batch_size=2 + seed))
    assert wrapped(made.denoiser.module) == before


def test_first_calls_at_once():
    recipe = per_step(weights=8, activations=8)
    made = tempoquant.quantize(unet_pipeline(), recipe)
    twin = tempoquant.quantize(unet_pipeline(), recipe)
    alone = [twin.generate(2, steps=4, seed=seed) for seed in range(THREADS)]
    found = at_once(*(lambda seed=seed: made.generate(2, steps=4, seed=seed) for seed in range(THREADS)))
    assert torch.equal(torch.cat(found), torch.cat(alone))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    out = tmp_path_factory.mktemp("plain") / "out"
    tempoquant.quantize(unet_pipeline(), per_step(), out=out)
    return out


def plain_draw(unet):
    """Draws with a pipeline and scheduler of each call's own around a shared denoiser."""

    def draw(seed):
        pipe = DDIMPipeline(unet=unet, scheduler=DDIMScheduler(num_train_timesteps=100, clip_sample=False))
        pipe.set_progress_bar_config(disable=True)
        noise = torch.Generator().manual_seed(seed)
        options = {"num_inference_steps": 4, "output_type": "np", "generator": noise}
        return torch.cat([torch.from_numpy(pipe(batch_size=2, **options).images) for _ in range(IMAGES // 2)])

    return draw


def test_plain_diffusers_with_a_scheduler_each(folder):
    check(plain_draw(DiffusionPipeline.from_pretrained(folder).unet))


def test_replayed_in_every_thread(folder):
    unet = DiffusionPipeline.from_pretrained(folder).unet
    before, draw, played = wrapped(unet), plain_draw(unet), []

    def replayed_draw(seed):
        with tempoquant.replayed(unet) as replay:
            made = draw(seed)
            played.append(replay.replays)
        return made

    check(replayed_draw)
    assert min(played[:THREADS]) == 14 and max(played) > 14
    assert wrapped(unet) == before


def test_replayed_around_all_threads(folder):
    unet = DiffusionPipeline.from_pretrained(folder).unet
    with tempoquant.replayed(unet) as replay:
        check(plain_draw(unet))
        assert replay.replays > 16 * THREADS
    assert "forward" not in vars(unet)


def test_prompt_tables(tmp_path):
    made = tempoquant.quantize(
        dit_pipeline(), small_recipe("rtn"), conditioning={"class_labels": [1, 7], "guidance_scale": 2.0}
    )
    made.save_pretrained(tmp_path / "out")
    shared = DiffusionPipeline.from_pretrained(tmp_path / "out")
    before = wrapped(shared.transformer)

    def draw(seed):
        pipe = type(shared)(shared.transformer, shared.vae, DDIMScheduler.from_config(shared.scheduler.config))
        pipe.set_progress_bar_config(disable=True)
        noise = torch.Generator().manual_seed(seed)
        with tempoquant.prompt_tables(pipe) as tables:
            options = {"num_inference_steps": 4, "output_type": "np", "generator": noise}
            drawn = [pipe([seed, 7], **options).images for _ in range(IMAGES // 2)]
            assert any(entry.steps for entry in tables.entries)
        return torch.cat([torch.from_numpy(images) for images in drawn])

    check(draw)
    assert wrapped(shared.transformer) == before


def test_a_conditional_pipelines_own_call(tmp_path):
    few = {"prompt": ["a b", "c"], "guidance_scale": 2.0}
    made = tempoquant.quantize(text_pipeline(tmp_path), per_step(), conditioning=few)
    before, seen = wrapped(made.denoiser.module), {seed: [] for seed in range(THREADS)}

    def draw(seed):
        given = {"prompt": ["a b", "c", "d", "e"] * 2, "guidance_scale": 2.0}

        def observe(k, t, indices, sample, prediction):
            seen[seed].append((k, float(t[0])))

        return made.generate(IMAGES, steps=4, seed=seed, batch_size=4, conditioning=given, step_callback=observe)

    check(draw)
    # Nobody is told of another's calls: two batches of four steps, alone and at once.
    assert all(calls == [(0, 76.0), (1, 51.0), (2, 26.0), (3, 1.0)] * 4 for calls in seen.values())
    assert wrapped(made.denoiser.module) == before


def test_runs_of_two_schedules_take_turns_where_tables_are_made_for_each():
    made = tempoquant.quantize(unet_pipeline(), small_recipe("tdq-thin", activations=4).keeping_generators())
    check(lambda seed: made.generate(IMAGES, steps=4 + 3 * (seed % 2), seed=seed, batch_size=4))
