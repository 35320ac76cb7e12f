"""The reports on FCGAN: accuracy and cleansing (ICLR 2021), and what the framework had to learn for them."""

import html
import json
import os
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.stats import kendalltau
from sklearn.neighbors import KernelDensity
from support.results import cell_of, result_of

import gan_influence as gi
from gan_influence.baselines import isolation_forest, random_order
from reports.experiment import Preset
from reports.experiments import EXPERIMENTS, fcgan_accuracy, fcgan_cleansing
from reports.figures import write_figure
from reports.page import write_experiment, write_page
from reports.parts.densities import (
    GRID,
    MEAN,
    kernel_density,
    log_density,
    total_variation,
    true_density,
    true_log_density,
)
from reports.parts.fcgan import Streams, steps_per_epoch
from reports.runner import _combine
from reports.shared.data import VARIABLE, ensure_files, use_data_folder
from reports.statistics import VERDICT_RULE, expected_jaccard, jaccard, p_above, p_paired, sign_test
from reports.summary import Summary, load_published
from reports.tables import as_csv, as_latex, as_markdown, number

ROOT = Path(__file__).parents[2]
ACCURACY, CLEANSING = EXPERIMENTS["fcgan-accuracy"], EXPERIMENTS["fcgan-cleansing"]
CODE, PAPER = fcgan_accuracy.FORMS.values()
TAU, JACCARD, ERROR = fcgan_accuracy.TAU, fcgan_accuracy.JACCARD, fcgan_accuracy.ERROR
CHANGE, CORRELATION, CLOSER = fcgan_cleansing.CHANGE, fcgan_cleansing.CORRELATION, fcgan_cleansing.CLOSER
OURS, *BASELINES = fcgan_cleansing.SELECTIONS

TINY_ACCURACY = {
    **fcgan_accuracy.SMOKE,
    "forms": ["code"],
    "rows": 60,
    "batch": 20,
    "epochs": 3,
    "validation_rows": 30,
    "metric_latents": 30,
    "trace_back": [1, 3],
    "removals": 12,
    "critical": 3,
}
TINY_CLEANSING = {
    **fcgan_cleansing.SMOKE,
    "rows": 400,
    "batch": 100,
    "epochs": 4,
    "validation_rows": 40,
    "test_rows": 50,
    "removed": [100, 200],
    "pictured": 200,
    "pictured_seeds": 1,
    "sampled_rows": 40,
}


# --- statistics


def test_jaccard_takes_both_ends_as_one_set():
    truth = np.arange(10.0)
    assert jaccard(truth, truth, 2) == 1.0
    assert jaccard(-truth, truth, 2) == 1.0  # the ends change places, the set stays
    assert jaccard([0, 1, 2, 3, 4, 5, 6, 9, 8, 7], truth, 2) == 3 / 5  # {0, 1, 7, 8} and {0, 1, 8, 9}
    assert jaccard([4, 5, 0, 1, 2.5, 2.6, 8, 9, 3, 3.5], truth, 2) == 0.0
    with pytest.raises(ValueError, match="4 critical rows cannot be chosen from 3"):
        jaccard([1, 2, 3], [1, 2, 3], 2)


@pytest.mark.parametrize(("rows", "critical"), [(200, 10), (40, 5), (20, 10)])
def test_the_jaccard_of_a_random_order_is_what_simulation_gives(rows, critical):
    random = np.random.default_rng(0)
    truth = np.arange(rows)
    drawn = [jaccard(random.permutation(rows), truth, critical) for _ in range(4000)]
    error = np.std(drawn) / np.sqrt(len(drawn))
    assert abs(np.mean(drawn) - expected_jaccard(rows, critical)) <= 3.5 * error


def test_the_papers_chance_level_of_the_jaccard_index():
    assert expected_jaccard(200, 10) == pytest.approx(0.0538, abs=5e-5)
    assert fcgan_accuracy.jaccard_of_chance(fcgan_accuracy.PUBLISHED) == expected_jaccard(200, 10)


def test_significance_is_judged_against_the_baseline():
    values = [0.05, 0.06, 0.055, 0.07, 0.04, 0.05, 0.06]
    assert p_above(values) < 0.01
    assert p_above(values, 0.0538) > 0.3
    assert p_above([0.2, 0.2], 0.3) == 1.0


def test_paired_and_sign_tests():
    base = np.random.default_rng(0).normal(size=12)
    little = 0.01 * np.arange(1, 13)
    assert p_paired(base + 10 + little, base) == 0.5**12  # never below n signs' chance, however clear the difference
    assert p_paired(base, base + 10 + little) > 0.999
    noisy = 0.3 * np.random.default_rng(1).normal(size=12)
    assert p_paired(base + 0.5 + noisy, base) == p_above((0.5 + noisy).tolist())
    with pytest.raises(ValueError, match="zip"):
        p_paired([1.0, 2.0], [1.0])
    assert sign_test([1.0, 2.0, 3.0, -1.0]) == (3, pytest.approx(5 / 16))
    assert sign_test([0.0, 1.0]) == (1, pytest.approx(3 / 4))


# --- densities


def test_kernel_density_is_that_of_scikit_learn_and_integrates_to_one():
    points = np.random.default_rng(0).normal(1, 0.7, size=(300, 2))
    density = kernel_density(points, GRID, 0.3)
    assert density.sum() * (GRID[1] - GRID[0]) ** 2 == pytest.approx(1, abs=1e-4)
    at = np.array([[GRID[50], GRID[60]], [GRID[47], GRID[52]]])
    sklearn = KernelDensity(bandwidth=0.3).fit(points).score_samples(at)
    assert log_density(points, at, 0.3) == pytest.approx(sklearn)
    assert density[[50, 47], [60, 52]] == pytest.approx(np.exp(sklearn))


def test_log_density_stays_finite_far_away_and_does_not_depend_on_blocks():
    points = np.zeros((3, 2))
    at = np.random.default_rng(0).normal(0, 30, size=(1203, 2))
    got = log_density(points, at, 0.2)
    assert got == pytest.approx(-0.5 * (at**2).sum(1) / 0.04 - np.log(2 * np.pi * 0.04))


@pytest.mark.parametrize("bandwidth", [0.2, 1.0])
def test_the_true_density_is_smoothed_as_kernels_smooth_its_rows(bandwidth):
    covariance = [[1, 0.8], [0.8, 1]]
    rows = np.random.default_rng(0).multivariate_normal(MEAN, covariance, size=40_000)
    true = true_density(GRID, bandwidth)
    assert true.sum() * (GRID[1] - GRID[0]) ** 2 == pytest.approx(1, abs=5e-3)
    assert np.abs(kernel_density(rows, GRID, bandwidth) - true).max() < 0.05 * true.max()
    assert true[30, 40] == pytest.approx(np.exp(true_log_density(np.array([[GRID[30], GRID[40]]]), bandwidth)[0]))
    assert total_variation(rows, bandwidth) < 0.02
    assert total_variation(rows + 50, bandwidth) == pytest.approx(0.5, abs=3e-3)  # none of them is on the grid


def test_a_grid_survives_its_text():
    grid = np.array([[1.23456, np.nan], [-1e-7, 0.0]])
    text = fcgan_cleansing.as_text(grid)
    assert text == ["1.235 nan", "-1e-07 0"]
    assert np.array_equal(fcgan_cleansing.from_text(text), [[1.235, np.nan], [-1e-7, 0]], equal_nan=True)


def test_mean_by_cell_puts_rows_where_they_are():
    axis = fcgan_cleansing.AXIS
    data = np.array([[axis[3], axis[7]], [axis[3], axis[7]], [axis[10], axis[2]], [100.0, 0.0]])
    means = fcgan_cleansing.mean_by_cell(data, np.array([1.0, 3.0, 5.0, 3.0]))
    assert means[3, 7] == pytest.approx(-1 / np.sqrt(2))
    assert means[10, 2] == pytest.approx(2 / np.sqrt(2))
    assert np.isfinite(means).sum() == 2


# --- the experiments' work


def test_the_parts_of_a_seed_cover_every_removal_once():
    for settings in (fcgan_accuracy.PUBLISHED, fcgan_accuracy.STANDARD, fcgan_accuracy.SMOKE, TINY_ACCURACY):
        for epochs in settings["trace_back"]:
            covered = [k for part in fcgan_accuracy._parts(settings, epochs) for k in part]
            assert covered == list(range(settings["removals"]))
    units = fcgan_accuracy.units(fcgan_accuracy.PUBLISHED)
    assert len(units) == len(set(units)) == 2 * (1 + 5 + 2 + 1 + 1 + 1)
    assert units[:2] == ["code-estimates", "code-50-0"]
    assert all(re.fullmatch(r"[\w-]+", unit) for unit in units)  # they name files


@pytest.fixture(scope="module")
def accuracy_records():
    return {
        unit: fcgan_accuracy.run_unit(TINY_ACCURACY, 0, unit, "cpu") for unit in fcgan_accuracy.units(TINY_ACCURACY)
    }


def test_the_units_of_accuracy_compare_estimates_with_retraining(accuracy_records):
    trace, metric, removed = fcgan_accuracy._factual(json.dumps(TINY_ACCURACY), 0, "code", "cpu")
    assert trace.steps == 9
    assert len(set(removed)) == 12
    assert (len(metric.centered), len(metric.latents)) == (30, 30)
    values = fcgan_accuracy.combine(TINY_ACCURACY, accuracy_records)
    for epochs in (1, 3):
        scores = gi.itd(trace, metric, last=3 * epochs)[removed].numpy()
        truth = gi.counterfactual(trace, metric, [[row] for row in removed], last=3 * epochs).numpy()
        assert values[TAU][CODE][str(epochs)] == kendalltau(scores, truth).statistic
        assert values[JACCARD][CODE][str(epochs)] == jaccard(scores, truth, 3)
        assert values[ERROR][CODE][str(epochs)] == pytest.approx(np.linalg.norm(scores - truth) / np.linalg.norm(truth))
        assert values[TAU][CODE][str(epochs)] > 0.9
    assert values[TAU][fcgan_accuracy.RANDOM] == {"1": 0.0, "3": 0.0}
    assert values[JACCARD][fcgan_accuracy.RANDOM]["1"] == expected_jaccard(12, 3)


def test_accuracy_needs_the_authors_rows_for_the_seeds_that_they_published():
    files = ACCURACY.files(ACCURACY.presets["paper"].settings, range(10))
    assert files == [f"normal2d/set0{k}.npz" for k in range(7)]
    assert ACCURACY.files(ACCURACY.presets["standard"].settings, range(10)) == []
    assert ACCURACY.files(ACCURACY.presets["smoke"].settings, range(10)) == []
    assert all(CLEANSING.files(preset.settings, range(15)) == [] for preset in CLEANSING.presets.values())


@pytest.mark.data
def test_the_authors_rows_are_used_where_they_are_published(monkeypatch):
    settings = {**TINY_ACCURACY, "rows": 10_000, "batch": 5000, "epochs": 1, "authors_sets": 1, "trace_back": [1]}
    trace, metric, _ = fcgan_accuracy._factual(json.dumps(settings), 0, "code", "cpu")
    authors = gi.datasets.iclr_normal_2d(0)
    assert torch.equal(trace.data, authors.train)
    assert torch.equal(metric.centered + metric.center, authors.validation) or len(metric.centered) == 1000
    drawn, _, _ = fcgan_accuracy._factual(json.dumps(settings), 1, "code", "cpu")
    assert torch.equal(drawn.data, gi.datasets.normal_2d(10_000, seed=Streams.of(1).rows))


@pytest.fixture(scope="module")
def cleansing_record():
    return fcgan_cleansing.run_unit(TINY_CLEANSING, 0, "cleansing", "cpu")


def test_cleansing_removes_the_most_harmful_rows_and_measures_on_test_rows(cleansing_record):
    streams = Streams.of(0)
    data = gi.datasets.normal_2d(400, seed=streams.rows)
    trace = fcgan_cleansing.trained(TINY_CLEANSING, "code", data, streams, "full", "cpu")
    reference = gi.datasets.normal_2d(40, seed=streams.validation_rows)
    validation = fcgan_cleansing.latents(40, streams.validation_latents)
    on_all = gi.itd(trace, gi.metrics.AverageLogLikelihood(reference, validation), last=4)
    on_loss = gi.itd(trace, gi.metrics.DiscriminatorLoss(reference, validation), last=4)
    test = gi.metrics.AverageLogLikelihood(
        gi.datasets.normal_2d(50, seed=streams.test_rows), fcgan_cleansing.latents(50, streams.test_latents)
    )
    expected = {
        OURS: on_all.argsort(descending=True, stable=True),
        "Influence on Disc. loss": on_loss.argsort(stable=True),
        "Isolation Forest": isolation_forest(data, seed=0).argsort(stable=True),
        "Random": random_order(400, streams.choice).argsort(stable=True),
    }
    for name, order in expected.items():
        change = gi.counterfactual(trace, test, [order[:100].tolist(), order[:200].tolist()], last=4)
        assert cleansing_record["change"][name] == pytest.approx((100 * change).tolist(), rel=1e-9, abs=1e-12)


def test_a_cleansing_record_makes_every_cell_and_the_pictures_of_fig_3(cleansing_record):
    values = fcgan_cleansing.combine(TINY_CLEANSING, {"cleansing": cleansing_record})
    assert list(values[CHANGE][OURS]) == ["0.1k", "0.2k"]
    for quantity in (CORRELATION, CLOSER):
        assert list(values[quantity]) == [OURS, *BASELINES]
        assert list(values[quantity][OURS]) == ["0.2", "1"]
    assert all(-1 <= value <= 1 for line in values[CORRELATION].values() for value in line.values())
    pictures = cleansing_record["pictures"]
    size = len(fcgan_cleansing.AXIS)
    assert fcgan_cleansing.from_text(pictures["before"]).shape == (size, size)
    assert list(pictures["after"]) == list(pictures["harmfulness"]) == [OURS, *BASELINES]
    json.dumps(cleansing_record, allow_nan=False)


def test_only_the_first_seeds_have_pictures_and_only_seed_0_all_selections():
    settings = {**TINY_CLEANSING, "pictured_seeds": 2}
    one = fcgan_cleansing.run_unit(settings, 1, "cleansing", "cpu")
    assert list(one["pictures"]["after"]) == [OURS]
    assert "pictures" not in fcgan_cleansing.run_unit(settings, 2, "cleansing", "cpu")


def test_oversampling_correlates_with_the_density_ratio_and_closeness_falls_with_distance():
    settings = {**TINY_CLEANSING, "sampled_rows": 200}
    data = np.random.default_rng(0).multivariate_normal(MEAN, [[1, 0.8], [0.8, 1]], size=200)
    before = data + 1.5  # too much to the upper right
    right = data.sum(1)
    correlation = fcgan_cleansing.oversampling(settings, data, {OURS: right, "Random": -right}, before, Streams.of(0))
    assert min(correlation[OURS]) > 0.8
    assert correlation["Random"] == pytest.approx([-value for value in correlation[OURS]])
    assert min(fcgan_cleansing.closer(settings, before, data)) > 5
    assert max(fcgan_cleansing.closer(settings, data, before)) < -5


def test_numbers_of_rows_print_as_in_the_paper():
    assert fcgan_cleansing.columns(fcgan_cleansing.PUBLISHED)[:4] == ["0.5k", "1.0k", "2.5k", "5.0k"]
    assert fcgan_cleansing.columns(fcgan_cleansing.PUBLISHED)[-2:] == ["17.5k", "20.0k"]
    assert [number(value, 2, "+") for value in (0.444, -0.1, None)] == ["+0.44", "-0.10", "–"]


def test_epochs_are_counted_in_steps():
    assert steps_per_epoch(fcgan_accuracy.PUBLISHED) == 100
    assert steps_per_epoch(fcgan_cleansing.PUBLISHED) == 500


# --- published values


def test_table_6_as_published_is_read_twice():
    published = load_published("fcgan-cleansing")
    table = {key[1:]: cell for key, cell in published.cells.items() if key[0] == "Table 6"}
    assert {row for row, _ in table} == {OURS, *BASELINES}
    # A second, independent reading: row sums of means and of standard deviations, and single cells.
    sums = {
        row: [sum(cell[key] for at, cell in table.items() if at[0] == row) for key in ("value", "std")]
        for row, _ in table
    }
    assert {row: [round(total, 2) for total in totals] for row, totals in sums.items()} == {
        OURS: [-1.75, 9.83],
        "Influence on Disc. loss": [2.16, 3.93],
        "Isolation Forest": [-0.28, 9.72],
        "Random": [-0.22, 8.07],
    }
    assert (table[OURS, "5.0k"]["value"], table[OURS, "5.0k"]["std"]) == (0.44, 0.50)
    assert (table["Influence on Disc. loss", "12.5k"]["value"], table["Random", "20.0k"]["std"]) == (0.35, 1.91)
    assert (table["Isolation Forest", "0.5k"]["value"], table["Isolation Forest", "20.0k"]["value"]) == (0.03, -0.46)
    single = [cell["value"] for key, cell in published.cells.items() if key[0] == "Table 11"]
    assert single == [1.24, 0.29, 0.54, 0.32, 0.58]
    assert published.cells["Table 9", "Isolation Forest", "ALL"]["value"] == 0.73


def test_fig_1_is_marked_as_read_off_and_stands_beside_both_forms():
    published = load_published("fcgan-accuracy")
    assert json.loads((ROOT / "reports/published/fcgan-accuracy.json").read_text())["read_off_figure"] is True
    assert published.rounding == pytest.approx(0.01, abs=1e-6)
    for form in (CODE, PAPER):
        taus = [published.cells[TAU, form, k]["value"] for k in ("1", "5", "10", "20", "50")]
        jaccards = [published.cells[JACCARD, form, k]["value"] for k in ("1", "5", "10", "20", "50")]
        assert taus == [0.87, 0.83, 0.855, 0.845, 0.67]
        assert jaccards == [0.57, 0.46, 0.53, 0.435, 0.295]


# --- from runs to cells, tables, figures and the page


def accuracy_runs(taus: dict, seeds: int = 5, jaccard_value: float = 0.4) -> list:
    """Runs whose tau of both forms is ``taus[k]``, up to a little that differs by seed."""
    runs = []
    for seed in range(seeds):
        values = {TAU: {}, JACCARD: {}, ERROR: {}}
        for form in (CODE, PAPER):
            values[TAU][form] = {k: tau + 1e-3 * (seed - 2) for k, tau in taus.items()}
            values[JACCARD][form] = dict.fromkeys(taus, jaccard_value + 0.001 * (seed - 2))
            values[ERROR][form] = dict.fromkeys(taus, 0.01)
        values[TAU][fcgan_accuracy.RANDOM] = dict.fromkeys(taus, 0.0)
        values[JACCARD][fcgan_accuracy.RANDOM] = dict.fromkeys(taus, expected_jaccard(200, 10))
        runs.append({"seed": seed, "seconds": 1.0, "data": "0" * 64, "values": values})
    return runs


def cleansing_runs(changes: dict, seeds: int = 6, record: dict | None = None) -> list:
    """Runs whose change is ``changes[selection]`` at every n_h, up to a little that differs by seed."""
    columns = fcgan_cleansing.columns(fcgan_cleansing.PUBLISHED)
    runs = []
    for seed in range(seeds):
        little = 0.01 * (seed - (seeds - 1) / 2)
        values = {
            CHANGE: {name: dict.fromkeys(columns, change + little) for name, change in changes.items()},
            CORRELATION: {name: {"0.2": 0.3 + little, "1": 0.4 + little} for name in changes},
            CLOSER: {name: {"0.2": 0.1 + little, "1": -0.1 + little} for name in changes},
        }
        runs.append({"seed": seed, "seconds": 1.0, "data": "0" * 64, "values": values})
    if record is not None:
        runs[0]["pictures"] = record["pictures"]
    return runs


CHANGES = {OURS: 0.5, "Influence on Disc. loss": 0.2, "Isolation Forest": -0.2, "Random": 0.0}


def test_a_value_read_off_a_figure_agrees_within_its_reading_error():
    taus = {"1": 0.861, "5": 0.84, "10": 0.87, "20": 0.845, "50": 0.5}
    result = result_of(ACCURACY, "paper", accuracy_runs(taus))
    verdicts = [cell_of(result, TAU, CODE, k)["verdict"] for k in taus]
    assert verdicts == ["agrees", "agrees", "differs", "agrees", "differs"]
    assert cell_of(result, TAU, fcgan_accuracy.RANDOM, "1")["verdict"] is None
    assert "read off a figure" in VERDICT_RULE
    standard = result_of(ACCURACY, "standard", accuracy_runs(taus))
    assert cell_of(standard, TAU, CODE, "1")["verdict"] == "not comparable"


def test_a_mean_with_a_standard_deviation_has_its_spread_in_the_verdict():
    result = result_of(CLEANSING, "paper", cleansing_runs({**CHANGES, OURS: 0.44, "Influence on Disc. loss": 0.12}))
    at_5k = cell_of(result, CHANGE, OURS, "5.0k")
    assert (at_5k["published"], at_5k["published_std"], at_5k["verdict"]) == (0.44, 0.50, "agrees")
    assert at_5k["std"] == pytest.approx(np.std([0.01 * (k - 2.5) for k in range(6)], ddof=1))
    assert cell_of(result, CHANGE, OURS, "10.0k")["verdict"] == "within spread"  # 0.22 ± 0.99
    assert cell_of(result, CHANGE, OURS, "0.5k")["verdict"] == "differs"  # 0.09 ± 0.06
    assert cell_of(result, CHANGE, OURS, "15.0k")["verdict"] == "within spread"  # -0.53 ± 1.60
    assert cell_of(result, CHANGE, "Influence on Disc. loss", "1.0k")["verdict"] == "differs"  # 0.04 ± 0.05
    assert cell_of(result, CHANGE, OURS, "0.5k")["p_value"] < 0.05
    assert cell_of(result, CHANGE, "Isolation Forest", "0.5k")["p_value"] > 0.95
    assert "one standard deviation" in VERDICT_RULE


def test_cells_of_the_lqgan_experiments_carry_no_standard_deviation():
    for name in ("lqgan-accuracy", "lqgan-initialisation"):
        kept = json.loads((ROOT / "reports/results" / f"{name}.json").read_text())
        cells = Summary(EXPERIMENTS[name], kept).cells()
        assert cells == kept["cells"]
        assert all("std" not in cell for cell in cells)


def test_random_order_itself_is_never_significant():
    result = result_of(ACCURACY, "paper", accuracy_runs(dict.fromkeys(("1", "5", "10", "20", "50"), 0.8)))
    for quantity in (TAU, JACCARD):
        assert cell_of(result, quantity, fcgan_accuracy.RANDOM, "5")["p_value"] == 1.0
        assert cell_of(result, quantity, CODE, "5")["p_value"] < 0.05


def test_tables_show_signs_standard_deviations_and_their_own_columns():
    result = result_of(CLEANSING, "paper", cleansing_runs(CHANGES))
    summary = Summary(CLEANSING, result)
    text = as_csv(summary, result["cells"]).splitlines()
    headers = [line for line in text if line.startswith("table,row,line")]
    assert headers == ["table,row,line," + ",".join(fcgan_cleansing.columns(summary.settings)), "table,row,line,0.2,1"]
    assert "+0.50 (0.02)" in text[1]
    assert "+0.44 (0.50)" in text[2]
    markdown = as_markdown(summary, result["cells"])
    assert "| Influence on ALL | **+0.50** (0.02) / +0.09 |" in markdown
    assert "Bold: above 0, one-sided t-test over seeds" in markdown
    assert "\\textbf{+0.50}" in as_latex(summary, result["cells"])


def test_tables_say_that_values_are_read_off_the_figure():
    result = result_of(ACCURACY, "paper", accuracy_runs(dict.fromkeys(("1", "5", "10", "20", "50"), 0.8)))
    summary = Summary(ACCURACY, result)
    assert "published (read off the figure),≈0.870,≈0.830" in as_csv(summary, result["cells"])
    assert "read off the figure, ± 0.01" in as_markdown(summary, result["cells"])
    latex = as_latex(summary, result["cells"])
    assert r"\quad read off the figure & \textit{$\approx$0.870}" in latex
    assert latex.isascii()


def test_findings_test_each_claim_of_fig_1():
    falling = {"1": 0.9, "5": 0.8, "10": 0.8, "20": 0.7, "50": 0.6}
    summary = Summary(ACCURACY, result_of(ACCURACY, "paper", accuracy_runs(falling)))
    found = "\n".join(ACCURACY.findings(summary))
    assert "tau above 0 at every k (largest p =" in found
    assert "Jaccard index above 0.0538 at every k" in found
    assert "tau goes from 0.900 at k = 1 to 0.600 at k = 50 (one-sided paired t-test of a drop: p = 0.031)" in found
    assert "5 to 10: p = 1," in found
    assert "Mean distance from the values read off Fig. 1" in found
    chance = Summary(
        ACCURACY, result_of(ACCURACY, "paper", accuracy_runs({**falling, "20": 0.0}, jaccard_value=0.0538))
    )
    assert "tau above 0 at every k but 20 (largest p = 0.5" in "\n".join(ACCURACY.findings(chance))
    assert "Jaccard index above 0.0538 at no k" in "\n".join(ACCURACY.findings(chance))
    few = Summary(ACCURACY, result_of(ACCURACY, "paper", accuracy_runs(falling, seeds=4)))
    assert "4 seeds are too few to tell: p is never below 0.062" in "\n".join(ACCURACY.findings(few))
    reduced = Summary(ACCURACY, result_of(ACCURACY, "standard", accuracy_runs(falling)))
    assert "Mean distance" not in "\n".join(ACCURACY.findings(reduced))


def test_findings_test_each_claim_of_cleansing():
    found = CLEANSING.findings(Summary(CLEANSING, result_of(CLEANSING, "paper", cleansing_runs(CHANGES))))
    text = "\n".join(found)
    assert "Influence on ALL: best at n_h = 0.5k, +0.50e-2 (printed there: +0.09); 6 of 6 seeds improve" in text
    assert "Isolation Forest: best at n_h = 0.5k, -0.20e-2" in text
    assert "significant nowhere" in text
    few = CLEANSING.findings(Summary(CLEANSING, result_of(CLEANSING, "paper", cleansing_runs(CHANGES, seeds=4))))
    assert "too few seeds for a change to be significant" in few[0]
    assert "At n_h = 5.0k influence on ALL exceeds Influence on Disc. loss by +0.30e-2 (p = 0.016)" in text
    assert "its mean is the highest of the four at n_h = 0.5k, 1.0k" in text
    assert "Mean rank correlation" in text
    assert "Influence on ALL +0.30 (6 of 6, p = 0.016) and +0.40 (6 of 6, p = 0.016);" in text
    assert "Influence on ALL +0.10 (6 of 6, p = 0.016) and -0.10 (0 of 6, p = 1);" in text
    assert f"Significant at every smoothing: {', '.join(CHANGES)}." in text
    assert "Significant at every smoothing: none." in text
    assert "from +0.29 to +1.24, mean +0.59; ours range from +0.47 to +0.53, mean +0.50, and hold 0 of them" in text
    assert "Isolation Forest +0.73 (ours -0.23 to -0.18)" in text


@pytest.mark.parametrize("seeds", [0, 1])
def test_findings_figures_and_tables_do_with_few_seeds(tmp_path, seeds):
    for experiment, runs in (
        (ACCURACY, accuracy_runs({"1": 0.9, "5": 0.8, "10": 0.8, "20": 0.8, "50": 0.8}, seeds)),
        (CLEANSING, cleansing_runs(CHANGES, seeds)),
    ):
        runs = runs or [{"seed": 0, "seconds": 1.0, "data": None, "diverged": "training diverged at step 3"}]
        result = result_of(experiment, "paper", runs)
        write_experiment(experiment, result, tmp_path)
        CLEANSING.findings(Summary(CLEANSING, result)) if experiment is CLEANSING else None
        for drawing in experiment.figures:
            assert (tmp_path / f"{drawing.name}.pdf").stat().st_size > 500


def test_every_figure_is_drawn(tmp_path, cleansing_record):
    runs = cleansing_runs(CHANGES, record=cleansing_record)
    summary = Summary(CLEANSING, result_of(CLEANSING, "paper", runs))
    assert [drawing.name for drawing in CLEANSING.figures] == ["figure", "figure-3", "table-9", "table-11"]
    for drawing in CLEANSING.figures:
        write_figure(replace(drawing, size=(5, 5)), summary, tmp_path)
        assert (tmp_path / f"{drawing.name}.png").stat().st_size > 5000


def test_the_page_says_that_values_are_read_off_the_figure(tmp_path):
    taus = {"1": 0.861, "5": 0.84, "10": 0.9, "20": 0.845, "50": 0.5}
    results = {
        "fcgan-accuracy": result_of(ACCURACY, "paper", accuracy_runs(taus)),
        "fcgan-cleansing": result_of(CLEANSING, "paper", cleansing_runs(CHANGES)),
    }
    write_page(results, tmp_path / "index.html")
    page = (tmp_path / "index.html").read_text()
    assert "Published values (≈) are read off the figure, ± 0.01: none are printed." in page
    assert '<span class="printed">≈0.870' in page
    assert "≈0.44" not in page
    assert '<span class="printed">+0.44<small>(0.50)</small></span>' in page
    assert "<th>h=0.2</th>" in page
    assert "Bold: above random order&#39;s expectation, one-sided t-test" in page
    assert f"{html.escape(CODE).replace('&#x27;', '&#39;')}, k = 50: 0.500 [0.4988, 0.5012] against ≈0.670." in page
    assert not re.search(r'(src|href)="(?!#|data:)', page)


def test_pictures_go_into_the_seeds_run(cleansing_record):
    run = _combine(CLEANSING, TINY_CLEANSING, 0, {"cleansing": {**cleansing_record, "seconds": 2.0}})
    assert run["pictures"] == cleansing_record["pictures"]
    without = {key: value for key, value in cleansing_record.items() if key != "pictures"}
    assert "pictures" not in _combine(CLEANSING, TINY_CLEANSING, 7, {"cleansing": {**without, "seconds": 2.0}})


# --- the data folder


def test_missing_data_files_are_named_with_both_ways_to_name_a_folder(tmp_path, monkeypatch):
    monkeypatch.delenv(VARIABLE, raising=False)
    with pytest.raises(
        SystemExit, match=r"x needs a\.npz and 1 more, and no data folder is named.*--data.*" + VARIABLE
    ):
        ensure_files(["a.npz", "b/c.npz"], "x")
    monkeypatch.setenv(VARIABLE, str(tmp_path))
    (tmp_path / "a.npz").write_text("")
    with pytest.raises(SystemExit, match=rf"x needs b/c\.npz, and it is not in {re.escape(str(tmp_path))}"):
        ensure_files(["a.npz", "b/c.npz"], "x")
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "c.npz").write_text("")
    ensure_files(["a.npz", "b/c.npz"], "x")
    ensure_files([], "x")


def test_the_data_folder_is_put_into_the_environment_of_the_workers(tmp_path, monkeypatch):
    monkeypatch.setenv(VARIABLE, "elsewhere")
    use_data_folder(None)
    assert os.environ[VARIABLE] == "elsewhere"
    use_data_folder(tmp_path)
    assert os.environ[VARIABLE] == str(tmp_path)
    with pytest.raises(SystemExit, match="no such folder"):
        use_data_folder(tmp_path / "none")


def test_missing_data_stops_the_program_before_any_work(tmp_path):
    command = [sys.executable, "-m", "reports", "lqgan-accuracy", "fcgan-accuracy", "--preset", "paper"]
    environment = {key: value for key, value in os.environ.items() if key != VARIABLE}
    ran = subprocess.run(
        [*command, "--out", str(tmp_path)], cwd=ROOT, env=environment, capture_output=True, text=True, timeout=60
    )
    assert ran.returncode == 1
    assert "fcgan-accuracy at --preset paper needs normal2d/set00.npz and 6 more" in ran.stderr
    assert "--data DIR" in ran.stderr
    assert VARIABLE in ran.stderr
    assert not list(tmp_path.iterdir())


def test_presets_differ_from_the_paper_only_where_they_say_so():
    for experiment in (ACCURACY, CLEANSING):
        published = {name: preset for name, preset in experiment.presets.items() if preset.as_published}
        assert published == {"paper": experiment.presets["paper"]}
        assert all(isinstance(preset, Preset) for preset in experiment.presets.values())
