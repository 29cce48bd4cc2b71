"""Damaged folders drawn at random, always the same ones."""

from collections import Counter

import pytest

from fuzzing import BAD, PLAIN, REFUSED, SAME, attack, make_originals


@pytest.fixture(scope="module")
def originals(tmp_path_factory):
    return make_originals(tmp_path_factory.mktemp("originals"))


def attacked(originals, numbers, work) -> Counter:
    """How often each result came out; every case that is not right is shown with its number."""
    outcomes = {number: attack(originals, number, work / "damaged") for number in numbers}
    wrong = {number: outcome for number, outcome in outcomes.items() if outcome.result in BAD}
    assert not wrong, "\n".join(f"{number}: {outcome}" for number, outcome in wrong.items())
    return Counter(outcome.result for outcome in outcomes.values())


def test_damaged_folders_are_refused_in_one_line_or_draw_the_same(originals, tmp_path):
    results = attacked(originals, range(200), tmp_path)
    assert results[REFUSED] > 100 and results[SAME] > 5 and results[PLAIN] > 0


@pytest.mark.slow
def test_many_damaged_folders(originals, tmp_path):
    attacked(originals, range(200, 2200), tmp_path)
