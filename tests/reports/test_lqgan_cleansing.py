"""The report on cleansing LQGAN (TNNLS Table VII), and the paired tests that it brought."""

import itertools
import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy.stats import nct, norm
from support.results import cell_of, result_of

import gan_influence as gi
from gan_influence.baselines import isolation_forest, random_order
from reports.experiments import EXPERIMENTS, lqgan_cleansing
from reports.experiments.lqgan_cleansing import (
    ALL,
    CHANGE,
    CLOSER,
    CONTROLS,
    DISTANCE,
    FOUND,
    LOSSES,
    MEAN,
    MEAN_CLOSER,
    OURS,
    POINT,
    RANDOM,
    REFERENCES,
    REST,
    SAME_PARTS,
    SCALED,
    SELECTIONS,
    TRUTH,
    VARIANCE,
)
from reports.figures import write_figure
from reports.page import committed_result
from reports.parts.lqgan import Contaminated, Streams, equilibrium, wasserstein
from reports.parts.weightings import trained_with
from reports.statistics import compared, effect_size, holm, p_above, p_permutation
from reports.summary import Summary, load_published

CLEANSING = EXPERIMENTS["lqgan-cleansing"]
TINY = {
    **lqgan_cleansing.SMOKE,
    "rows": 40,
    "latents": 30,
    "validation_rows": 25,
    "test_rows": 35,
    "metric_latents": 20,
    "clean_share": 0.8,
    "steps": 12,
    "terms": 5,
    "rates": [0.1, 0.5],
    "bins": 8,
}
STREAMS = Streams.of(0)


# --- statistics


@pytest.mark.parametrize("n", [2, 5, 9])
def test_the_permutation_test_counts_every_pattern_of_signs(n):
    values = np.random.default_rng(n).normal(0.3, 1, n)
    patterns = np.array(list(itertools.product((1, -1), repeat=n)))
    assert p_permutation(values) == pytest.approx(np.mean(patterns @ values >= values.sum() - 1e-12))


def test_the_permutation_test_of_many_values_draws_patterns():
    values = np.random.default_rng(0).normal(0.3, 1, 34)
    drawn, by_t = p_permutation(values), p_above(values)
    assert abs(drawn - by_t) < 0.02
    assert drawn == p_permutation(values)
    assert p_permutation(np.ones(34)) == 2**-16  # the observed pattern is one of those counted


def test_a_permutation_test_needs_two_values_and_knows_no_chance_below_that_of_the_signs():
    assert p_permutation([1.0]) is None
    assert p_permutation([1.0, 2.0, 3.0]) == 1 / 8
    assert p_permutation([-1.0, -2.0, -3.0]) == 1.0


@pytest.mark.parametrize(("mean", "n"), [(0.0, 6), (0.8, 20), (-1.5, 12)])
def test_the_interval_of_an_effect_size_is_that_of_the_noncentral_t(mean, n):
    values = np.random.default_rng(n).normal(mean, 1, n)
    d, low, high = effect_size(values)
    assert d == pytest.approx(np.mean(values) / np.std(values, ddof=1))
    t = d * np.sqrt(n)
    assert nct.cdf(t, n - 1, low * np.sqrt(n)) == pytest.approx(0.975, abs=2e-4)
    assert nct.cdf(t, n - 1, high * np.sqrt(n)) == pytest.approx(0.025, abs=2e-4)


def test_an_effect_of_equal_differences_has_no_size_and_a_huge_one_a_finite_interval():
    assert effect_size([1.0, 1.0, 1.0]) is None
    assert effect_size([1.0]) is None
    d, low, high = effect_size([1000.0, 1000.1])
    assert 0 < low < d < high < np.inf


def test_holm_corrects_step_by_step_and_keeps_the_order():
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.5, 0.9]) == [1.0, 1.0]
    assert holm([]) == []


def test_a_comparison_is_paired():
    base = np.random.default_rng(0).normal(0, 100, 8)
    pair = compared(base + np.arange(1.0, 9.0), base)
    assert pair.difference == pytest.approx(4.5)
    assert pair.low < 4.5 < pair.high
    assert pair.p_permutation == 2**-8
    assert pair.p_t < 0.01
    assert compared([1.0], [0.0]) is None


# --- the parts


def test_the_distance_is_that_of_the_quantiles():
    levels = (np.arange(200_000) + 0.5) / 200_000
    for scale, shift in ((0.7, 0.9), (-1.3, -0.4), (0.0, 1.0)):
        generated = np.sort(shift + scale * norm.ppf(levels))
        expected = np.sqrt(np.mean((generated - norm.ppf(levels, 1.0, 0.5)) ** 2))
        assert wasserstein(np.array([scale, shift]), 1.0, 0.5) == pytest.approx(expected, rel=1e-4)


def weights_of(n: int) -> torch.Tensor:
    weights = torch.rand(4, n, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    weights[0] = 1
    return weights


def test_at_rest_neither_player_gets_a_gradient():
    rows, latents = gi.datasets.normal_1d(30, seed=0), gi.datasets.normal_1d(20, mean=0.2, seed=1)
    weights = weights_of(30)
    for own, theta in zip(weights, equilibrium(rows, latents, weights, sign=-1.0).tolist(), strict=True):
        assert theta[0] < 0
        game = gi.Game(*gi.models.lqgan(*theta))
        trace = gi.train(game, rows, gi.FullBatch(latents), 1, gi.SGD(lr=1.0), weights=own)
        assert trace.theta().tolist() == pytest.approx(theta, abs=1e-12)


def test_training_comes_to_rest_there():
    rows, latents = gi.datasets.normal_1d(30, seed=0), gi.datasets.normal_1d(20, mean=0.0, seed=1)
    game = gi.Game(*gi.models.lqgan(1.0, 0.5, 0.1, 0.1))
    trace = gi.train(game, rows, gi.FullBatch(latents), 800, gi.SGD(lr=0.2))
    found = trained_with(trace, weights_of(30)[:2])
    expected = equilibrium(rows, latents, weights_of(30)[:2], sign=1.0)
    assert found.flatten().tolist() == pytest.approx(expected.flatten().tolist(), abs=1e-3)


@pytest.fixture(scope="module")
def given() -> Contaminated:
    return Contaminated.of(TINY, STREAMS, "cpu")


def test_a_weight_of_0_is_a_removal_and_a_weight_of_1_the_factual_run(given):
    weights = torch.ones(2, 40, dtype=torch.float64)
    weights[1, [3, 17, 20]] = 0
    factual, without = trained_with(given.trace, weights)
    assert factual.tolist() == pytest.approx(given.trace.theta().tolist(), rel=1e-12)
    assert without.tolist() == pytest.approx(gi.retrain(given.trace, [3, 17, 20]).theta().tolist(), rel=1e-12)


def test_rows_are_contaminated_and_those_of_the_metrics_are_not(given):
    assert 0 < given.contaminated.sum() < 20
    far = given.trace.data.flatten() < -0.5
    assert (far == given.contaminated).float().mean() > 0.95
    for metric in (given.validation, given.test):
        assert abs(float(metric.center) - 1) < 0.4
    assert len(given.validation.centered) == 25
    assert len(given.test.centered) == 35
    assert not torch.equal(given.validation.latents, given.test.latents)


def test_the_random_control_takes_as_many_of_each_part(given):
    harm = lqgan_cleansing.harmfulness(TINY, given, STREAMS)
    removed = lqgan_cleansing.removals(TINY, harm, given.contaminated, STREAMS)
    assert list(removed) == [*SELECTIONS, SAME_PARTS]
    for ours, alike in zip(removed[OURS], removed[SAME_PARTS], strict=True):
        assert len(set(alike.tolist())) == len(alike) == len(ours)
        assert given.contaminated[alike].sum() == given.contaminated[ours].sum()
    assert set(removed[OURS][1].tolist()) != set(removed[SAME_PARTS][1].tolist())


def test_weightings_remove_rescale_and_shrink():
    removed = {"A": [torch.tensor([0]), torch.tensor([0, 1])]}
    kept, mean = lqgan_cleansing.weightings({"rows": 4, "rates": [0.25, 0.5]}, removed)
    assert kept["A"].tolist() == [[0, 1, 1, 1], [0, 0, 1, 1]]
    assert mean["A"].tolist() == [[0, 4 / 3, 4 / 3, 4 / 3], [0, 0, 2, 2]]
    assert kept[SCALED].tolist() == [[0.75] * 4, [0.5] * 4]
    assert list(mean) == ["A"]


# --- one seed


@pytest.fixture(scope="module")
def record():
    return lqgan_cleansing.run_unit(TINY, 0, "deviation", "cpu")


def orders_of(given: Contaminated) -> dict[str, torch.Tensor]:
    """Every selection's order of the rows, in the paper's words: what raises ALL, what lowers the loss."""
    trace, loss = given.trace, gi.metrics.DiscriminatorLoss(*given.validation_set)
    return {
        OURS: gi.itd(trace, given.validation).argsort(descending=True, stable=True),
        SELECTIONS[1]: gi.aid(trace, given.validation, terms=5).argsort(descending=True, stable=True),
        LOSSES[0]: gi.itd(trace, loss).argsort(stable=True),
        LOSSES[1]: gi.aid(trace, loss, terms=5).argsort(stable=True),
        "Isolation Forest": isolation_forest(trace.data).argsort(stable=True),
        RANDOM: random_order(40, STREAMS.choice).argsort(stable=True),
    }


def check_table_vii(record: dict, given: Contaminated) -> None:
    """Each cell of a seed by retraining without the very rows, which removes, trains and measures another way."""
    for name, order in orders_of(given).items():
        change = gi.counterfactual(given.trace, given.test, [order[:4].tolist(), order[:20].tolist()])
        assert record["tables"][CHANGE][name] == pytest.approx((100 * change).tolist(), rel=1e-7, abs=1e-9)


def test_cells_are_those_of_retraining_without_the_most_harmful_rows(record, given):
    check_table_vii(record, given)


def helpful_first(monkeypatch):
    monkeypatch.setattr(lqgan_cleansing, "by_influence", lambda *a, **k: lambda *given: -by_influence(*a, **k)(*given))


def larger_loss_is_better(monkeypatch):
    monkeypatch.setattr(gi.metrics.DiscriminatorLoss, "larger_is_better", True)


def mean_over_kept_rows(monkeypatch):
    monkeypatch.setattr(lqgan_cleansing, "weightings", lambda *given: (weightings(*given)[1],) * 2)


def measured_on_validation_rows(monkeypatch):
    change = lqgan_cleansing.changes
    monkeypatch.setattr(
        lqgan_cleansing, "changes", lambda given, *models: change(given._replace(test=given.validation), *models)
    )


by_influence, weightings = lqgan_cleansing.by_influence, lqgan_cleansing.weightings


@pytest.mark.parametrize("fault", [helpful_first, larger_loss_is_better, measured_on_validation_rows])
def test_a_fault_in_a_cell_is_seen(fault, given, monkeypatch):
    with monkeypatch.context() as patched:
        fault(patched)
        wrong = lqgan_cleansing.run_unit(TINY, 0, "deviation", "cpu")
    with pytest.raises(AssertionError):
        check_table_vii(wrong, given)


def test_denominators_that_shrink_are_seen(given, monkeypatch):
    mean_over_kept_rows(monkeypatch)
    wrong = lqgan_cleansing.run_unit(TINY, 0, "variance", "cpu")["tables"][VARIANCE]
    monkeypatch.undo()
    right = lqgan_cleansing.run_unit(TINY, 0, "variance", "cpu")["tables"][VARIANCE]
    assert wrong[OURS] != pytest.approx(right[OURS], rel=1e-3)


def test_controls_are_trained_as_they_say(record, given):
    base = float(given.test(given.trace))
    for k, rate in enumerate(TINY["rates"]):
        shrunk = gi.train(
            gi.Game(*gi.models.lqgan(seed=STREAMS.players)),
            given.trace.data,
            gi.FullBatch(given.trace.batch(0).latents),
            12,
            gi.SGD(lr=0.01),
            weights=torch.full((40,), 1 - rate, dtype=torch.float64),
        )
        assert record["tables"][CONTROLS][SCALED][k] == pytest.approx(100 * (float(given.test(shrunk)) - base))
    left = orders_of(given)[OURS][20:].sort().values
    without = gi.train(
        gi.Game(*gi.models.lqgan(seed=STREAMS.players)),
        given.trace.data[left],
        gi.FullBatch(given.trace.batch(0).latents),
        12,
        gi.SGD(lr=0.01),
    )
    assert record["tables"][MEAN][OURS][1] == pytest.approx(100 * (float(given.test(without)) - base))
    scale, shift = without.theta()[:2].tolist()
    before = wasserstein(given.trace.theta()[:2].numpy(), 1.0, 0.5)
    fall = 100 * (before - np.hypot(shift - 1, abs(scale) - 0.5))
    assert record["tables"][MEAN_CLOSER][OURS][1] == pytest.approx(fall)


def test_the_share_of_contaminated_rows_counts_them(record, given):
    order = orders_of(given)[OURS]
    share = given.contaminated[order[:20]].sum() / given.contaminated.sum()
    assert record["tables"][FOUND][OURS][1] == pytest.approx(float(share))


def test_references_are_perfect_and_collapsed(record, given):
    before = wasserstein(given.trace.theta()[:2].numpy(), 1.0, 0.5)
    truth, point = record["tables"][REFERENCES][TRUTH], record["tables"][REFERENCES][POINT]
    assert truth[1] == pytest.approx(100 * before)
    assert point[1] == pytest.approx(100 * (before - 0.5))
    test_rows = (given.test.centered + given.test.center).flatten().numpy()
    value = norm.logpdf(test_rows, 1.0, 1.0).mean()  # one kernel around the only point
    assert point[0] == pytest.approx(100 * (value - float(given.test(given.trace))))


def test_the_other_reading_has_wider_parts_of_the_same_draws():
    rooted = Contaminated.of({**TINY, "clean": [1.0, 0.5**0.5], "harmful": [-2.0, 0.5**0.5]}, STREAMS, "cpu")
    expected, contaminated = gi.datasets.contaminated_normal_1d(40, seed=STREAMS.rows, clean_share=0.8)
    assert torch.allclose(rooted.trace.data, expected, rtol=1e-12)
    assert torch.equal(rooted.contaminated, contaminated)
    order = orders_of(rooted)[OURS]
    change = gi.counterfactual(rooted.trace, rooted.test, [order[:4].tolist(), order[:20].tolist()])
    other = lqgan_cleansing.run_unit(TINY, 0, "variance", "cpu")
    assert other["tables"][VARIANCE][OURS] == pytest.approx((100 * change).tolist(), rel=1e-7)


def test_a_seed_makes_every_cell_and_its_pictures(record):
    other = lqgan_cleansing.run_unit(TINY, 0, "variance", "cpu")
    values = lqgan_cleansing.combine(TINY, {"deviation": record, "variance": other})
    assert {
        (quantity.table, row, column)
        for quantity in CLEANSING.quantities
        for row in quantity.rows(TINY)
        for column in (quantity.columns or lqgan_cleansing.columns)(TINY)
    } == {(table, row, column) for table, lines in values.items() for row in lines for column in lines[row]}
    json.dumps([record, other], allow_nan=False)
    assert sum(record["pictures"]["rows"]["counts"]) == 40
    assert "pictures" not in lqgan_cleansing.run_unit({**TINY, "pictured_seeds": 0}, 0, "deviation", "cpu")


def test_bins_have_the_mean_of_their_rows():
    data = torch.tensor([[0.0], [0.1], [1.0]], dtype=torch.float64)
    picture = lqgan_cleansing.coloured({"bins": 3}, data, torch.tensor([1.0, 3.0, -4.0], dtype=torch.float64))
    assert picture["counts"] == [2, 0, 1]
    assert picture["influence"] == [2.0, None, -4.0]


# --- published values


def test_table_vii_as_published_is_read_twice():
    published = load_published("lqgan-cleansing")
    columns = lqgan_cleansing.columns(lqgan_cleansing.PUBLISHED)
    assert set(published.cells) == {(CHANGE, row, column) for row in SELECTIONS for column in columns}
    # A second, independent reading: column sums of means and of standard deviations, and single cells.
    sums = [
        [round(sum(published.cells[CHANGE, row, column][key] for row in SELECTIONS), 2) for column in columns]
        for key in ("value", "std")
    ]
    assert sums == [[13.99, 24.61, 46.33, 49.03, 40.07, -5.86], [4.19, 7.31, 13.94, 15.69, 14.35, 17.67]]
    cell = published.cells[CHANGE, LOSSES[0], "0.50"]
    assert (cell["value"], cell["std"]) == (-4.97, 6.69)


# --- from runs to sentences and figures


def runs_of(seeds: int = 6, record: dict | None = None, **of_tables: dict) -> list:
    """Runs whose cells are 0 but for those given, ``table={row: value}``, up to a little that differs by seed."""
    settings, runs = lqgan_cleansing.PUBLISHED, []
    for seed in range(seeds):
        little = 0.01 * (seed - (seeds - 1) / 2)
        values = {
            quantity.table: {
                row: dict.fromkeys(
                    (quantity.columns or lqgan_cleansing.columns)(settings),
                    of_tables.get(quantity.table, {}).get(row, 0.0) + little * (1 + (row == OURS)),
                )
                for row in quantity.rows(settings)
            }
            for quantity in CLEANSING.quantities
        }
        runs.append({"seed": seed, "seconds": 1.0, "data": "0" * 64, "values": values})
    if record is not None:
        runs[0]["pictures"] = record["pictures"]
    return runs


def sentences(runs: list, preset: str = "paper") -> str:
    return "\n".join(CLEANSING.findings(Summary(CLEANSING, result_of(CLEANSING, preset, runs))))


def test_findings_follow_the_numbers():
    runs = runs_of(
        **{
            CHANGE: {OURS: 11.4, SELECTIONS[1]: 10.5, LOSSES[0]: 7.5, LOSSES[1]: 9.3, "Isolation Forest": 12.0},
            CONTROLS: {SAME_PARTS: 11.5, SCALED: -2.0},
            FOUND: {OURS: 1.0, LOSSES[1]: 0.2},
            MEAN: {OURS: 22.0},
            MEAN_CLOSER: {OURS: -40.0},
            CLOSER: {OURS: 5.0},
        }
    )
    for run in runs:
        run["values"][REFERENCES][TRUTH] = {ALL: 12.0, DISTANCE: 30.0}
        run["values"][REFERENCES][POINT] = {ALL: 24.0, DISTANCE: -20.0}
        run["values"][CHANGE][OURS]["0.10"] += 1.0
    text = sentences(runs)
    assert f"{OURS}: best at rate 0.10, ALL +12.40 (printed there: +11.39); 6 of 6 seeds improve there" in text
    assert "Order at rate 0.05: isolation forest +12.00, ITD +11.40, AID +10.50, loss by AID +9.30" in text
    assert "(printed: ITD +10.98, AID +10.16, loss by AID +9.31, isolation forest +8.72" in text
    assert "Of 36 cells of Table VII, 30 improve significantly by one-sided paired t-tests at .05 and 30 by" in text
    assert "corrected for 36 comparisons (Holm) 0 and 0" in text  # six seeds cannot: 36 / 64 is above .05
    assert "ITD against AID: significantly ahead at 0.01, 0.02, 0.05, 0.10, 0.20, 0.50 by t-tests" in text
    assert "ITD against isolation forest: significantly ahead at 0.10 by t-tests" in text
    assert "at 0.10 by +1.90 [+1.89, +1.91], effect size d = " in text
    assert "ITD 6, loss by ITD 0, loss by AID 0" in text
    assert (
        "prefers a collapsed generator to the truth: all points at the mean change it by +24.00, the truth by" in text
    )
    assert "ITD at 0.50 gains +22.00 in ALL, while the distance falls by -40.00" in text
    assert "changes ALL at 0.50 by -2.00, random removal by +0.00" in text
    assert "ITD +5.00 at" in text
    assert "is 9.9 (12) at 0.01" in text  # at rest all is 0
    assert "ITD's standard deviation over seeds at 0.10 is 0.04, and 0.04 at rest (printed: 1.00)" in text
    assert "if .5 is a standard deviation" in text


def test_findings_change_with_the_numbers():
    text = sentences(runs_of(**{CHANGE: {OURS: -1.0, RANDOM: 2.0}, REFERENCES: {TRUTH: 1.0, POINT: 0.5}}))
    assert "ITD against random: significantly ahead at none by t-tests and at none by permutation tests" in text
    assert "does not prefer a collapsed generator" in text
    assert "Of 36 cells of Table VII, 6 improve" in text


def test_twenty_seeds_withstand_the_correction():
    assert "corrected for 36 comparisons (Holm) 6 and 6" in sentences(runs_of(20, **{CHANGE: {OURS: 3.0}}))


def test_few_seeds_are_said_to_be_few_and_reduced_runs_are_not_compared_with_print():
    text = sentences(runs_of(2), "smoke")
    assert "Too few seeds for a change to be significant." in text
    assert "ITD against" not in text
    assert "if .5 is a" not in text


def test_a_printed_cell_is_judged_in_both_readings():
    runs = runs_of(**{CHANGE: {OURS: 11.39}, VARIANCE: {OURS: 9.0}})
    result = result_of(CLEANSING, "paper", runs)
    assert cell_of(result, CHANGE, OURS, "0.10")["verdict"] == "agrees"
    assert cell_of(result, CHANGE, OURS, "0.05")["verdict"] == "within spread"  # 10.98 ± 0.83
    assert cell_of(result, VARIANCE, OURS, "0.10")["verdict"] == "differs"
    assert cell_of(result, VARIANCE, OURS, "0.10")["published"] == 11.39
    assert cell_of(result, REST, OURS, "0.10")["verdict"] is None


@pytest.mark.parametrize("seeds", [1, 6])
def test_every_figure_is_drawn(tmp_path, record, seeds):
    pictured = {"before": [[1.0, 0.8]], "rows": record["pictures"]["rows"]}
    players = [[0.5, 1.0]] * 6
    for form in ("kept", "mean"):
        pictured[form] = dict.fromkeys((*SELECTIONS, SAME_PARTS), players)
    summary = Summary(CLEANSING, result_of(CLEANSING, "paper", runs_of(seeds, {"pictures": pictured})))
    assert [drawing.name for drawing in CLEANSING.figures] == ["figure", "figure-3", "controls"]
    for drawing in CLEANSING.figures:
        write_figure(replace(drawing, size=(6, 5)), summary, tmp_path)
        assert (tmp_path / f"{drawing.name}.png").stat().st_size > 5000


def test_fig_3_does_without_pictures(tmp_path):
    summary = Summary(CLEANSING, result_of(CLEANSING, "paper", runs_of(2)))
    write_figure(CLEANSING.figures[1], summary, tmp_path)


# --- the committed result


def test_the_committed_result_is_of_todays_settings_and_has_twenty_seeds():
    kept = committed_result("lqgan-cleansing")
    assert kept is not None
    assert kept["settings"] == CLEANSING.presets["paper"].settings
    assert [run["seed"] for run in kept["runs"]] == list(range(20))
    assert kept["cells"] == json.loads(json.dumps(Summary(CLEANSING, kept).cells()))
    verdicts = {cell["verdict"] for cell in kept["cells"] if cell["table"] == CHANGE}
    assert verdicts == {"agrees", "within spread"}
