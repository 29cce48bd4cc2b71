"""Which figures a page shows."""

from dataclasses import replace

import torch

from tempoquant.report.entries import read_entries
from tempoquant.report.plots import model_plots, shared_plots


def test_models_with_other_modules_are_compared_on_what_all_have(folders):
    first, second = read_entries(folders)[0]
    d = second.diagnosis
    fewer = replace(
        d, projections=d.projections[1:], feature_cosine=d.feature_cosine[1:], units=(), unit_cosine=d.unit_cosine[:0]
    )
    names = [plot.name for plot in shared_plots([first, replace(second, diagnosis=fewer)])]
    assert names == ["trajectory", "temporal-only", "noise", "temporal-cosine"]
    unseen = replace(d, unit_cosine=torch.full_like(d.unit_cosine, torch.nan))
    assert "unit-cosine" not in [plot.name for plot in shared_plots([first, replace(second, diagnosis=unseen)])]


def test_the_worst_is_shown(folders):
    entry = read_entries(folders)[0][1]
    d = entry.diagnosis
    changed = d.feature_cosine.clone()
    changed[1, 2] = -0.5
    plots = {plot.name: plot for plot in shared_plots([replace(entry, diagnosis=replace(d, feature_cosine=changed))])}
    assert plots["temporal-cosine"].figure.axes[0].get_title() == f"Temporal feature of {d.projections[1]}"


def test_a_model_without_a_ranking(folders):
    entry = read_entries(folders)[0][1]
    plain = replace(entry, diagnosis=replace(entry.diagnosis, culprits=(), step_ranges=()))
    names = [plot.name for plot in model_plots(plain)]
    assert names[:3] == ["parts", "units", "mismatch"] and "range0" in names and "culprits" not in names


def test_a_model_of_another_tool_has_no_intervals(folders):
    entry = read_entries(folders)[0][1]
    d = replace(entry.diagnosis, intervals=torch.full_like(entry.diagnosis.intervals, torch.nan))
    plots = {plot.name: plot for plot in model_plots(replace(entry, diagnosis=d))}
    assert "intervals" not in plots and list(plots["range0"].series) == ["least", "median", "greatest"]


def test_intervals_that_move_most_are_shown_once(folders):
    entry = read_entries(folders)[0][1]
    steps = entry.diagnosis.intervals.shape[1]
    still = torch.tensor([-1.0, 1.0]).expand(len(entry.diagnosis.layers), steps, 2).clone()
    still[2:5] *= torch.linspace(1, 2, steps)[:, None]
    still[7] *= torch.linspace(1, 3, steps)[:, None]
    plots = {p.name: p for p in model_plots(replace(entry, diagnosis=replace(entry.diagnosis, intervals=still)))}
    lines = plots["intervals"].figure.axes[0].lines
    assert [line.get_label() for line in lines] == [entry.diagnosis.layers[7], entry.diagnosis.layers[2]]
