"""Numbers of a recipe that no run could mean: refused in one line when it is made, in Python too."""

import pytest

from tempoquant import method_recipe
from tempoquant.errors import InputError
from tempoquant.pipelines import resolve
from tempoquant.recipe import MOST, Recipe

BAD = {
    "calibration.samples = 10000000000": {"calibration": {"samples": 10**10}},
    "calibration.rows_per_step": {"calibration": {"rows_per_step": MOST + 1}},
    "calibration.eta = nan": {"calibration": {"eta": float("nan")}},
    "correction.samples": {"correction": {"samples": 10**20}},
    "training.lr = inf": {"training": {"lr": float("inf")}},
    "training.weight_decay = nan": {"training": {"weight_decay": float("nan")}},
    "training.warm_up": {"training": {"warm_up": 10**10}},
    "training.lora": {"training": {"lora": 10**10}},
    "tuning.iterations": {"tuning": {"iterations": 10**10}},
    "activations.groups": {"activations": {"groups": 10**10}},
}


@pytest.mark.parametrize("said", BAD)
def test_a_number_out_of_range_is_named(said):
    with pytest.raises(InputError, match=f"^recipe: {said}") as error:
        Recipe.parse({"method": "rtn", **BAD[said]})
    assert "\n" not in str(error.value)


def test_the_largest_counts_are_valid():
    assert Recipe.parse({"method": "rtn", "calibration": {"samples": MOST}}).calibration.samples == MOST


def test_effort_is_used_where_something_is_fitted():
    used = {name: method_recipe(name).uses_effort for name in ("rtn", "tfmq-dm", "s-2", "q-diffusion", "tempo")}
    assert used == {"rtn": False, "tfmq-dm": True, "s-2": True, "q-diffusion": True, "tempo": True}


@pytest.mark.parametrize("count", [10**10, 10**21])
def test_as_many_samples_are_drawn_as_memory_could_index(count):
    with pytest.raises(InputError, match=f"samples {count} is out of range"):
        resolve("fashion32").generate(count, steps=2, seed=0)
    with pytest.raises(InputError, match=f"samples {count} is out of range"):
        resolve("fashion32").run_trajectories(count, lambda seen: None, steps=2, seed=0)
