"""Intervals from the input, for comparison: what they are, and that they train and run but do not fold."""

import pytest
import torch

import tempoquant
from tempoquant.errors import InputError, TempoquantError
from tempoquant.intervals import ConstantInterval
from tempoquant.learned.dynamic import RangeInterval, StatisticsInterval, statistics
from tempoquant.numerics import QParams
from training_models import bare_denoiser, recipe, trainee, unet_pipeline


def test_a_range_by_hand_covers_every_item():
    # Zero point 3 of 0..7: four steps above, three below.
    provider = RangeInterval(ConstantInterval(QParams(torch.tensor(1.0), torch.tensor(3), 0, 7), 3))
    x = torch.tensor([[-3.0, 0.5, 2.0], [0.1, 0.2, 8.0]])
    assert provider(x).scale.flatten().tolist() == [1.0, 2.0]
    assert provider.fake_quantize(x).tolist() == [[-3.0, 0.0, 2.0], [0.0, 0.0, 8.0]]


def test_statistics_by_hand():
    assert statistics(torch.tensor([[[1.0, 3.0]], [[-2.0, 0.0]]])).tolist() == [[1, 3, 2, 1], [-2, 0, -1, 1]]


@pytest.mark.parametrize("sees", ["range", "statistics", "statistics+time"])
@pytest.mark.parametrize("scheme", ["lsq", "duq"])
@pytest.mark.parametrize("model", [bare_denoiser, unet_pipeline])
def test_they_train_and_draw_but_have_no_form_on_disk(model, sees, scheme, tmp_path):
    wanted = recipe(scheme, sees=sees)
    with pytest.raises(InputError, match="intervals from the input have no form on disk"):
        tempoquant.train(model(), wanted, out=tmp_path / "out")
    made = tempoquant.train(model(), wanted, recording=tmp_path / "r")
    with pytest.raises(TempoquantError, match="no form on disk"):
        made.save_pretrained(tmp_path / "out")
    with pytest.raises((TempoquantError, AttributeError), match=r"no form on disk|save_pretrained"):
        made.denoiser.module.save_pretrained(tmp_path / "out")
    assert not (tmp_path / "out").exists()
    drawn = made.generate(2, steps=4, seed=1)
    assert torch.isfinite(drawn).all() and torch.equal(drawn, made.generate(2, steps=4, seed=1))


def test_what_networks_see_decides_their_intervals(tmp_path):
    x, t = torch.randn(2, 1, 8, 8, generator=torch.Generator().manual_seed(0)), torch.tensor([0, 75])
    for sees, by_time in (("statistics", False), ("statistics+time", True)):
        made = trainee(tmp_path / "r", recipe("tdq", sees=sees), unet_pipeline())
        site = next(s.provider for s in made.sites if isinstance(s.provider, StatisticsInterval))
        with made.clock.at(t), torch.no_grad():
            same = site.fake_quantize(x[:1].expand(2, -1, -1, -1))
            assert torch.equal(same[0], same[1]) != by_time
            assert not torch.equal(site.fake_quantize(x)[1], site.fake_quantize(x * 3)[1] / 3)
