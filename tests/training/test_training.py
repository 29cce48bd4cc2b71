"""The loop: what it minimises, that it goes on bit by bit where it was stopped, and what it refuses."""

import json

import pytest
import torch

import tempoquant
from conditional_models import dit_pipeline
from shaped_models import SHAPED
from tempoquant.errors import InputError, NumericsError
from tempoquant.pipelines import resolve
from tempoquant.recipe import Recipe
from tempoquant.recording.store import Store
from tempoquant.sampling.denoiser import Denoiser
from tempoquant.training import Rhythm, trainer
from tempoquant.training.data import Pictures, open_images
from tempoquant.training.objectives import DiffusionLoss, Distillation
from tempoquant.training.processes import Processes
from tempoquant.training.trainer import Trainer
from training_models import bare_denoiser, images, recipe, trainee, unet_pipeline

EVERY = Rhythm(log=1, save=2)
WEIGHTS = "diffusion_pytorch_model.safetensors"


class Dropping(torch.nn.Module):
    """A denoiser that drops some of its features while it trains."""

    def __init__(self):
        super().__init__()
        self.inner, self.drop = bare_denoiser().module, torch.nn.Dropout(0.3)
        self.extra = torch.nn.Conv2d(1, 1, 3, padding=1)

    def forward(self, sample, timestep):
        return self.inner(self.drop(self.extra(sample)), timestep)


def dropping():
    torch.manual_seed(3)
    plain = bare_denoiser()
    return Denoiser(Dropping().eval(), plain.scheduler, plain.sample_shape, name="dropping")


def weights_of(folder):
    return (folder / "denoiser" / WEIGHTS).read_bytes()


def test_a_killed_run_goes_on_and_ends_with_the_same_bytes(tmp_path, monkeypatch):
    options = {"data": images(), "rhythm": EVERY}
    for method in ("tdq", "nipq-tdq"):
        whole = tmp_path / f"{method} whole"
        tempoquant.train(dropping(), recipe(method, accumulate=2), out=whole, **options)
        advance = Trainer.advance

        def stopping(self, advance=advance):
            if self.step == 3:
                raise KeyboardInterrupt
            return advance(self)

        killed = tmp_path / f"{method} killed"
        with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
            patch.setattr(Trainer, "advance", stopping)
            tempoquant.train(dropping(), recipe(method, accumulate=2), out=killed, **options)
        assert not killed.exists()
        torch.rand(7)
        tempoquant.train(dropping(), recipe(method, accumulate=2), out=killed, resume=True, **options)
        assert weights_of(killed) == weights_of(whole)
        logs = [(f / "training" / "log.jsonl").read_text().splitlines() for f in (killed, whole)]
        told = [[(e["step"], e["loss"]) for e in map(json.loads, log)] for log in logs]
        assert told[0] == told[1] and [step for step, _ in told[0]] == [1, 2, 3, 4, 5, 6]


def test_another_recipe_or_other_data_is_not_resumed(tmp_path, monkeypatch):
    def stopping(self):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(
            Trainer, "advance", lambda self, real=Trainer.advance: stopping(self) if self.step == 2 else real(self)
        )
        tempoquant.train(bare_denoiser(), recipe(), data=images(), out=tmp_path / "out", rhythm=EVERY)
    with pytest.raises(InputError, match=r"recipe.training.lr = 0.001, not 0.01"):
        tempoquant.train(bare_denoiser(), recipe(lr=0.01), data=images(), out=tmp_path / "out", resume=True)
    with pytest.raises(InputError, match="was begun with data = '"):
        tempoquant.train(bare_denoiser(), recipe(), data=images(13), out=tmp_path / "out", resume=True)
    with pytest.raises(InputError, match="was begun with data = '"):
        tempoquant.train(bare_denoiser(), recipe(), out=tmp_path / "out", resume=True)


def test_a_loss_that_is_not_finite_stops_names_its_step_and_keeps_the_checkpoint(tmp_path, monkeypatch):
    draw = DiffusionLoss.draw

    def broken(self, count, own, *key):
        batch = draw(self, count, own, *key)
        return batch._replace(target=batch.target * float("nan")) if key[1] == 5 else batch

    out = tmp_path / "out"
    with monkeypatch.context() as patch:
        patch.setattr(DiffusionLoss, "draw", broken)
        with pytest.raises(
            NumericsError, match=r"loss of step 5 is not finite \(nan\): the last good checkpoint is in"
        ):
            tempoquant.train(bare_denoiser(), recipe(), data=images(), out=out, rhythm=EVERY)
    assert not out.exists()
    assert json.loads((tmp_path / "out.partial" / "training" / "state.json").read_text())["step"] == 4
    tempoquant.train(bare_denoiser(), recipe(), data=images(), out=out, rhythm=EVERY, resume=True)
    tempoquant.train(bare_denoiser(), recipe(), data=images(), out=tmp_path / "whole", rhythm=EVERY)
    assert weights_of(out) == weights_of(tmp_path / "whole")


def test_the_diffusion_loss_by_hand(tmp_path):
    target = resolve(bare_denoiser())
    scheduler, pictures = target.denoiser.scheduler, Pictures(open_images(images()), (1, 8, 8))
    for kind in ("epsilon", "sample", "v_prediction"):
        scheduler.register_to_config(prediction_type=kind)
        batch = DiffusionLoss(pictures, target).draw(6, slice(None), 0, 1, 0)
        clean = pictures.draw(6, slice(None), "images", 0, 1, 0)
        alpha = scheduler.alphas_cumprod[batch.timestep].view(-1, 1, 1, 1)
        noise = (batch.sample - alpha.sqrt() * clean) / (1 - alpha).sqrt()
        wanted = {"epsilon": noise, "sample": clean, "v_prediction": alpha.sqrt() * noise - (1 - alpha).sqrt() * clean}
        torch.testing.assert_close(batch.target, wanted[kind], atol=1e-4, rtol=1e-4)
    assert 0.5 < float(noise.std()) < 1.5 and batch.timestep.unique().numel() > 1


def test_rows_are_the_same_whichever_others_are_drawn(tmp_path):
    target = resolve(bare_denoiser())
    loss = DiffusionLoss(Pictures(open_images(images()), (1, 8, 8)), target)
    made = trainee(tmp_path / "r", recipe(), bare_denoiser())
    assert made.sites
    for objective in (loss, Distillation(Store(tmp_path / "r"), target.denoiser)):
        whole, half = objective.draw(6, slice(None), 7), objective.draw(6, slice(3, 6), 7)
        for ours, theirs in zip(half[:3], whole[:3], strict=True):
            torch.testing.assert_close(ours, theirs[3:])


def test_parts_of_a_batch_add_up_to_it(tmp_path):
    made = {}
    for parts in (1, 2):
        wanted = recipe("lsq", accumulate=parts)
        got = trainee(tmp_path / str(parts), wanted, bare_denoiser())
        objective = Fixed()
        training = Trainer(got, Denoiser(got.module, None, (1, 8, 8)), objective, wanted, Processes())
        made[parts] = training.advance(), [p.grad.clone() for p in training.parameters.values()]
    assert made[1][0] == pytest.approx(made[2][0], rel=1e-5)
    for one, two in zip(made[1][1], made[2][1], strict=True):
        torch.testing.assert_close(one, two, rtol=1e-3, atol=1e-6)


class Fixed:
    """Four rows of noise, in as many parts as are asked for."""

    def draw(self, count, own, seed, step, part):
        draws = torch.Generator().manual_seed(0)
        x, y = torch.randn(2, 4, 1, 8, 8, generator=draws)
        rows = slice(part * count, (part + 1) * count)
        return trainer.Batch(x[rows][own], torch.tensor([0, 25, 50, 75])[rows][own], y[rows][own], {})


def test_training_lowers_the_distance_to_full_precision(tmp_path):
    # Distillation of a tiny network at 4 bits: the folded result is nearer than where it began.
    found = {}
    for steps in (1, 120):
        wanted = recipe(
            "tdq", steps=steps, batch=16, lr=3e-3 if steps > 1 else 1e-9, calibration={"samples": 16}, ema=0.9
        )
        made = tempoquant.train(bare_denoiser(), wanted, recording=tmp_path / "r")
        sample, timestep, _ = Store(tmp_path / "r").read(
            torch.arange(4).repeat(16), torch.arange(16).repeat_interleave(4)
        )
        with torch.no_grad():
            error = made.denoiser(sample, timestep) - bare_denoiser()(sample, timestep)
        found[steps] = float(error.square().mean())
    assert found[120] < 0.7 * found[1]


def test_rates_groups_and_averages(tmp_path):
    wanted = recipe("tdq", warm_up=2, steps=4, schedule="constant", lr=1e-3, step_lr=0.1, ema=0.5)
    got = trainee(tmp_path / "r", wanted, bare_denoiser())
    training = Trainer(got, Denoiser(got.module, None, (1, 8, 8)), Fixed(), wanted, Processes())
    assert [(g["lr"], g["weight_decay"]) for g in training.optimizer.param_groups] == [
        (pytest.approx(1e-4), 0.0),
        (1e-3, 0.01),
        (1e-3, 0.01),
    ]
    networks = sum(p.numel() for p in training.optimizer.param_groups[1]["params"])
    assert networks == sum(p.numel() for p in got.bank.generators.parameters())
    assert training.rate() == 0.5
    before = {name: value.clone() for name, value in training.ema.items()}
    training.advance()
    # After one step the average's decay is min(0.5, 2 / 11).
    for name, parameter in training.parameters.items():
        torch.testing.assert_close(training.ema[name], before[name].lerp(parameter.detach(), 9 / 11))
    assert training.rate() == 1.0
    cosine = recipe("lsq", warm_up=0, steps=4)
    other = trainee(tmp_path / "r", cosine, bare_denoiser())
    plain = Trainer(other, Denoiser(other.module, None, (1, 8, 8)), Fixed(), cosine, Processes())
    plain.step = 2
    assert plain.rate() == pytest.approx(0.5)


def test_bfloat16_trains_in_about_the_same_direction(tmp_path):
    made = {}
    for kind in (None, "bfloat16"):
        wanted = recipe("tdq", 8, 8, autocast=kind)
        got = trainee(tmp_path / "r", wanted, bare_denoiser())
        training = Trainer(got, Denoiser(got.module, None, (1, 8, 8)), Fixed(), wanted, Processes())
        loss = training.advance()
        made[kind] = loss, torch.cat([p.grad.flatten() for p in training.parameters.values()])
        assert all(p.dtype == torch.float32 for p in training.parameters.values())
    (a, b), (c, d) = made[None], made["bfloat16"]
    assert a == pytest.approx(c, rel=0.02) and a != c
    assert float(torch.cosine_similarity(b, d, dim=0)) > 0.98


def test_a_conditional_model_trains_on_its_own_trajectories(tmp_path):
    wanted = recipe("tdq", policy=({"match": "@temporal", "weight_bits": 32, "activation_bits": 32},))
    labels = {"class_labels": [0, 1]}
    made = tempoquant.train(dit_pipeline(), wanted, conditioning=labels, out=tmp_path / "out")
    drawn = made.generate(2, steps=4, seed=1, conditioning=labels)
    assert torch.equal(tempoquant.load(tmp_path / "out").generate(2, steps=4, seed=1, conditioning=labels), drawn)
    with pytest.raises(InputError, match="conditional: images say no condition"):
        tempoquant.train(dit_pipeline(), wanted, data=images(size=16, channels=3), conditioning=labels)


def test_samples_are_drawn_as_it_goes(tmp_path):
    tempoquant.train(unet_pipeline(), recipe("lsq"), out=tmp_path / "out", rhythm=Rhythm(samples=4))
    assert sorted(path.name for path in (tmp_path / "out" / "training").iterdir()) == [
        "log.jsonl",
        "samples-4.png",
        "samples-6.png",
    ]


def test_samples_that_are_no_images_are_not_drawn(tmp_path):
    (tmp_path / "shaped.py").write_text(SHAPED)
    model, how = f"{tmp_path / 'shaped.py'}:sequence", recipe("lsq")
    with pytest.warns(UserWarning, match=r"samples of sequence are \(3, 16\) and no images: none are drawn"):
        tempoquant.train(model, how, out=tmp_path / "out", rhythm=Rhythm(samples=4))
    assert [path.name for path in (tmp_path / "out" / "training").iterdir()] == ["log.jsonl"]
    with pytest.raises(InputError, match=r"images are no samples of \(3, 16\): train this model without --data"):
        tempoquant.train(model, how, data=images())


@pytest.mark.parametrize(
    ("entries", "line"),
    [
        ({"batch": 5, "accumulate": 2}, "batch = 5 cannot be done in accumulate = 2 equal parts"),
        ({"scheme": "lsq2"}, "training.scheme = 'lsq2'"),
        ({"steps": 0}, "training.steps = 0"),
        ({"ema": 1.0}, "training.ema = 1.0"),
    ],
)
def test_recipes_that_cannot_be(entries, line):
    data = recipe().model_dump(mode="json")
    with pytest.raises(InputError, match=line):
        Recipe.parse({**data, "training": {**data["training"], **entries}})


def test_more_processes_than_devices(monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "4096")
    with pytest.raises(InputError, match=r"4096 processes and \d+ processor cores: use fewer"):
        Processes()


def test_what_quantizes_nothing_does_not_train():
    everything = ({"match": "*", "weight_bits": 32, "activation_bits": 32},)
    with pytest.raises(InputError, match="quantizes no layer"):
        tempoquant.train(bare_denoiser(), recipe(policy=everything))
