"""The experiment of linear datamodelling scores: signs, what cannot be scored, and sentences."""

import json
import math

import pytest
import torch

import gan_influence as gi
from reports.experiments.lds import LDS, METHODS, SCORE, SMOKE, SPREAD, columns, combine, dcgan, rows, run_unit, units

TINY = {
    **SMOKE,
    "games": ["LQGAN", "DCGAN"],
    "kept": [0.9],
    "subsets": 6,
    "lqgan": {"rows": 40, "steps": 30, "lr": 0.01, "terms": 5},
    "dcgan": {"rows": 60, "steps": 3, "lr": 1e-2, "batch": 30, "channels": 2, "terms": 2},
}


@pytest.fixture(scope="module")
def records():
    return {unit: run_unit(TINY, 0, unit, "cpu") for unit in units(TINY)}


def test_every_cell_is_a_correlation(records):
    values = combine(TINY, json.loads(json.dumps(records)))
    assert list(values[SCORE]) == rows(TINY)
    assert all(-1 <= values[SCORE][row][column] <= 1 for row in rows(TINY) for column in columns(TINY))
    assert all(values[SPREAD][game]["0.9"] > 3 for game in TINY["games"])


def test_sums_of_itd_rank_runs_by_both_directions_of_a_metric(records):
    """ALL is better larger, the Fréchet distance smaller: with a wrong sign one of them would be turned around."""
    assert records["LQGAN"]["0.9"]["correlation"]["ITD"] > 0.9
    assert records["DCGAN"]["0.9"]["correlation"]["ITD"] > 0.9


def test_the_fréchet_distance_is_that_of_held_out_digits():
    trace, metric, reference, _ = dcgan(TINY["dcgan"], 0, "cpu")
    assert len(reference) + trace.size == len(gi.datasets.digits().images)
    assert not metric.larger_is_better
    rows = {tuple(image.flatten().tolist()) for image in trace.data}
    assert sum(tuple(image.flatten().tolist()) in rows for image in reference) < 10


def test_scores_that_grew_too_far_leave_their_cells_empty(monkeypatch):
    monkeypatch.setattr(gi.baselines, "by_chance", lambda seed: lambda trace, _: torch.full((trace.size,), math.inf))
    record = run_unit({**TINY, "games": ["LQGAN"]}, 0, "LQGAN", "cpu")
    assert combine({**TINY, "games": ["LQGAN"]}, {"LQGAN": record})[SCORE]["LQGAN: Random"] == {"0.9": None}


def test_it_declares_what_it_runs():
    assert LDS.presets["standard"].settings["methods"] == list(METHODS)
    assert set(LDS.presets["paper"].settings["kept"]) >= {0.5, 0.9}
