"""The reports on cleansing StyleGAN and StyleGAN2 (TNNLS Table II, Fig. 2(f, g), 5-10)."""

import json
from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import torch
from support.results import cell_of, result_of

import gan_influence as gi
from gan_influence import trees
from gan_influence.baselines import isolation_forest, random_order
from reports.experiments import EXPERIMENTS, stylegan_cleansing
from reports.experiments.stylegan_cleansing import (
    AID,
    CHANGE,
    CHOOSES,
    CHOSEN,
    FOREST,
    ITD,
    MEASURES,
    NO_REMOVAL,
    RANDOM,
    REACHED,
    SCALED,
    at_best,
    best,
    changes_at_best,
    table,
)
from reports.figures import write_figure
from reports.parts import cats, cleansing
from reports.parts.cats import Streams
from reports.parts.cleansing import FULL, ONE
from reports.parts.pictures import as_text, from_text
from reports.shared import stylegan
from reports.shared.stylegan import StyleGANCost
from reports.summary import Summary, load_published

CLEANSING, CLEANSING_2 = EXPERIMENTS["stylegan-cleansing"], EXPERIMENTS["stylegan2-cleansing"]
ROWS, EPOCH = 24, 3
TINY = {
    **stylegan_cleansing.SMOKE,
    "rows": ROWS,
    "validation_rows": 70,
    "test_rows": 70,
    "metric_latents": 70,
    "pretraining_rows": 40,
    "pretraining_steps": 3,
    "classifier_rows": 100,
    "classifier_epochs": 1,
    "channels": 3,
    "style_size": 4,
    "rates": [0.23, 0.5],  # 5.52 rows: 5
    "terms": 3,
    "neighbours": 2,
    "shown": 4,
}
REMOVED = (5, 12)
ROWS_OF_TABLES = (ITD, AID, FOREST, RANDOM)


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    return CLEANSING.prepare(TINY, 0, tmp_path_factory.mktemp("cats"), "cpu")


@pytest.fixture(scope="module")
def given(prepared):
    return cats.cats(TINY, 0, prepared, "cpu")


@pytest.fixture(scope="module")
def records(prepared):
    return {unit: CLEANSING.run_unit(TINY, 0, unit, "cpu", prepared) for unit in CLEANSING.units(TINY)}


@pytest.fixture(scope="module")
def values(records):
    return CLEANSING.combine(TINY, records)


# --- one seed


def features_of(prepared, images):
    return gi.models.load_classifier(prepared["features"]).double().features(images.double()).detach()


def orders_of(prepared, given, strategy):
    """Every selection's order of the rows in the paper's words: most negative influence on FID, most abnormal."""
    trace, validation = given.trace, given.validation
    without_penalty = stylegan.as_if(trace, StyleGANCost("batch", "none"))
    harmful = (
        -gi.itd(trace, validation, last=EPOCH if strategy == ONE else None),
        -gi.aid(without_penalty, validation, terms=3, scale=0.001),
        -isolation_forest(features_of(prepared, trace.data)),
        -random_order(ROWS, Streams.of(0).choice),
    )
    return [scores.double().argsort(descending=True, stable=True) for scores in harmful]


def check_cells(values, prepared, given, strategy):
    """Each cell by retraining without the very rows, which removes, trains and measures another way."""
    removals = [order[:size].tolist() for order in orders_of(prepared, given, strategy) for size in REMOVED]
    metrics, last = [given.validation, given.test], EPOCH if strategy == ONE else None
    truth = gi.counterfactual(given.trace, metrics, removals, last)
    for measure, expected in zip((CHOOSES, "FID"), truth, strict=True):
        found = [value for row in ROWS_OF_TABLES for value in values[table(measure, strategy)][row].values()]
        assert found == pytest.approx(expected.tolist(), rel=0, abs=1e-4 * float(expected.abs().max())), measure


@pytest.mark.parametrize("strategy", [ONE, FULL])
def test_cells_are_those_of_retraining_without_the_most_harmful_rows(strategy, values, prepared, given):
    check_cells(values, prepared, given, strategy)


def helpful_first(monkeypatch):
    right = stylegan_cleansing.by_influence
    monkeypatch.setattr(stylegan_cleansing, "by_influence", lambda *a, **k: lambda *own: -right(*a, **k)(*own))


def retrained_from_the_start(monkeypatch):
    right = cleansing.trained_with
    monkeypatch.setattr(cleansing, "trained_with", lambda trace, weights, start: right(trace, weights, 0))


def constant_denominators(monkeypatch):
    right, cost = cleansing.trained_with, StyleGANCost("batch", "mean")
    monkeypatch.setattr(cleansing, "trained_with", lambda trace, *own: right(stylegan.as_if(trace, cost), *own))


def rounded_numbers(monkeypatch):
    right = stylegan_cleansing.most_harmful
    monkeypatch.setattr(stylegan_cleansing, "most_harmful", lambda *own, count: right(*own))


@pytest.mark.parametrize("fault", [helpful_first, retrained_from_the_start, constant_denominators, rounded_numbers])
def test_a_fault_in_a_cell_is_seen(fault, records, prepared, given, monkeypatch):
    with monkeypatch.context() as patched:
        fault(patched)
        wrong = CLEANSING.run_unit(TINY, 0, "one-0", "cpu", prepared)
    with pytest.raises(AssertionError):
        check_cells(CLEANSING.combine(TINY, {**records, "one-0": wrong}), prepared, given, ONE)


def test_aid_is_that_of_the_cost_of_the_authors_influence(given, monkeypatch):
    def scores():
        return stylegan_cleansing.harmfulness(TINY, given, AID, 0, EPOCH)

    cost = StyleGANCost("batch", "none")
    expected = -gi.aid(stylegan.as_if(given.trace, cost), given.validation, terms=3, scale=0.001)
    assert torch.equal(scores(), expected.double())
    monkeypatch.setattr(stylegan_cleansing, "as_if", lambda trace, cost: trace)
    assert not torch.equal(scores(), expected.double())


def test_the_control_multiplies_the_real_term_and_removes_no_row(values, prepared, given):
    run = cats._run(TINY, 0, prepared)
    run.game.cost = StyleGANCost("batch", "mean")
    halved = torch.full((ROWS,), 0.5, dtype=torch.float64)
    own = {"ema_decay": run.ema_decay, "weights": halved}
    shrunk = stylegan.fine_tuned(run.game, run.images, run.steps, run.optimizer, run.seed, **own)
    change = float(given.test(shrunk) - given.test(given.trace))
    assert values[table("FID", FULL)][SCALED]["0.5"] == pytest.approx(change, rel=1e-4)
    assert change != 0


def test_measures_are_those_of_images_made_from_fresh_latents(values, prepared, given):
    images = given.trace.players().generate((given.test_latents,))
    made, real = features_of(prepared, images), features_of(prepared, given.test_images)
    near = gi.metrics.precision_recall_density_coverage(real, made, k=2)
    line = values[at_best(ONE)][NO_REMOVAL]
    assert [line[measure] for measure in MEASURES[1:]] == pytest.approx(list(near))
    assert values[REACHED][NO_REMOVAL][ONE] == pytest.approx(float(given.test(given.trace)), rel=1e-9)
    assert not trees.same_bits(given.test_latents, given.validation.latents)


def test_a_retraining_that_diverges_has_no_cell_and_those_beside_it_have(given, monkeypatch):
    right = cleansing.trained_with

    def diverges(trace, weights, start):
        if (weights == 0).sum(1).max() > 10:
            raise gi.DivergenceError(3, "discriminator", "loss", (), None)
        return right(trace, weights, start)

    monkeypatch.setattr(cleansing, "trained_with", diverges)
    weights = cleansing.without([torch.arange(5), torch.arange(12)], ROWS)
    few, many = cleansing.retrained(given.trace, weights, EPOCH, at_once=2)
    assert many is None
    assert few is not None


def test_a_selection_that_fails_has_no_cells_and_the_others_have_theirs(records, prepared, monkeypatch):
    def fails(*arguments, **options):
        raise gi.ConvergenceError("the series grows")

    monkeypatch.setattr(gi, "aid", fails)
    record = CLEANSING.run_unit(TINY, 0, "one-1", "cpu", prepared)
    found = CLEANSING.combine(TINY, {**records, "one-1": record})
    assert found[table("FID", ONE)][AID] == {"0.23": None, "0.5": None}
    assert found[CHANGE][AID][ONE] is None
    assert None not in found[table("FID", ONE)][ITD].values()


# --- at the rate of best validation FID


def test_the_best_rate_is_that_of_validation_and_the_first_of_equals():
    assert best([[-1.0, 9.0], [-2.0, 5.0], [-2.0, -7.0], None, [None, -9.0]]) == 1
    assert best([None, [None, 0.0]]) is None


def test_table_two_is_read_at_the_rate_of_best_validation_fid(records):
    lines = [[-1.0, 0.1, 0.2, 0.3, 0.4, 0.5], [-2.0, 1.1, 1.2, 1.3, 1.4, 1.5]]
    unit = {"changes": {ITD: lines}}
    scaled = {"changes": {}, "before": [50.0, 10.0, 20.0, 30.0, 40.0, 60.0]}
    found = CLEANSING.combine(TINY, {**records, "full-0": unit, "full-scaled": scaled})
    assert found[CHOSEN][ITD][FULL] == 0.5
    assert found[CHANGE][ITD][FULL] == 1.1
    assert found[REACHED][ITD][FULL] == pytest.approx(11.1)
    assert found[at_best(FULL)][ITD] == pytest.approx(
        {"Precision": 21.2, "Recall": 31.3, "Density": 41.4, "Coverage": 61.5}
    )
    assert found[changes_at_best(FULL)][ITD]["Coverage"] == 1.5
    assert found[at_best(FULL)][NO_REMOVAL]["Coverage"] == 60.0
    assert found[CHOSEN][SCALED][FULL] is None


# --- pictures


def test_the_first_seed_has_pictures_of_the_last_strategy(records, given, prepared):
    pictures = {key: own for record in records.values() for key, own in record.get("pictures", {}).items()}
    assert list(pictures) == [ITD, FOREST]
    order = orders_of(prepared, given, FULL)[0]
    levels = ((given.trace.data[order] + 1) * 127.5).round().to(torch.uint8)[:, 0].numpy()
    assert np.array_equal(from_text(pictures[ITD]["harmful"]), levels[:4])
    assert np.array_equal(from_text(pictures[ITD]["helpful"]), levels[:-5:-1])
    assert pictures[ITD]["before"] == pictures[FOREST]["before"]
    other = TINY | {"pictured_seeds": 0}
    assert "pictures" not in CLEANSING.run_unit(other, 0, "full-3", "cpu", prepared)


def test_coloured_levels_are_kept_and_large_images_made_small():
    levels = torch.randint(0, 256, (2, 3, 8, 8), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    assert np.array_equal(from_text(as_text(levels)), levels.movedim(1, -1).numpy())
    large = levels.repeat_interleave(16, -1).repeat_interleave(16, -2)
    small = from_text(stylegan_cleansing.thumbnails(large))
    assert small.shape == (2, 64, 64, 3)
    assert np.array_equal(small[:, ::8, ::8], levels.movedim(1, -1).numpy())


# --- stylegan2


def test_stylegan2_is_cleansed_by_itd_and_beside_it_at_random(tmp_path):
    settings = {**TINY, "model": "stylegan2", "strategies": [ONE]}
    assert CLEANSING_2.units(settings) == ["one-0", "one-1", "one-scaled"]
    prepared = CLEANSING_2.prepare(settings, 0, tmp_path, "cpu")
    record = CLEANSING_2.run_unit(settings, 0, "one-0", "cpu", prepared)
    given = cats.cats(settings, 0, prepared, "cpu")
    order = (-gi.itd(given.trace, given.validation, last=EPOCH)).argsort(descending=True)
    truth = gi.counterfactual(given.trace, given.test, [order[:size].tolist() for size in REMOVED], EPOCH)
    assert [line[1] for line in record["changes"][ITD]] == pytest.approx(truth.tolist(), rel=1e-4)


# --- the report


def test_printed_cells_are_the_papers():
    published = load_published("stylegan-cleansing")
    assert len(published.cells) == 5 * 2 * 2
    assert published.cells[at_best(FULL), AID, "Density"]["value"] == 0.822
    for (of, row, column), cell in published.cells.items():
        if of == changes_at_best(FULL):
            after, before = (published.cells[at_best(FULL), one, column]["value"] for one in (row, NO_REMOVAL))
            assert cell["value"] == pytest.approx(after - before)


def test_every_printed_cell_has_a_place_at_the_papers_settings():
    result = result_of(CLEANSING, "paper", [])
    places = {(cell["table"], cell["row"], cell["column"]) for cell in result["cells"]}
    assert set(load_published("stylegan-cleansing").cells) <= places
    beside = cell_of(result, at_best(ONE), ITD, "Coverage")
    assert beside["published"] == 0.717


def test_rates_are_told_apart():
    assert CLEANSING.columns(stylegan_cleansing.PUBLISHED)[:3] == ["0.001", "0.002", "0.005"]


def runs_of(values, count=3):
    """Made-up seeds: ITD lowers FID by 1 more than the others and raises coverage by .2."""

    def shifted(lines, k):
        return {
            row: {column: None if value is None else value + 0.01 * k for column, value in line.items()}
            for row, line in lines.items()
        }

    runs = []
    for k in range(count):
        made = {of: shifted(lines, k) for of, lines in values.items()}
        made[CHANGE] = {row: {ONE: 0.1 * k - (row == ITD), FULL: (-1.0) ** k * (row == ITD)} for row in made[CHANGE]}
        for row in made[changes_at_best(ONE)]:
            made[changes_at_best(ONE)][row]["Coverage"] = 0.2 + 0.01 * k if row == ITD else 0.0
        runs.append({"seed": k, "seconds": 1.0, "values": made})
    return runs


@pytest.fixture(scope="module")
def report(values, records):
    experiment = replace(CLEANSING, presets={"smoke": replace(CLEANSING.presets["smoke"], settings=TINY)})
    runs = runs_of(json.loads(json.dumps(values)))
    runs[0]["pictures"] = {k: own for record in records.values() for k, own in record.get("pictures", {}).items()}
    return experiment, result_of(experiment, "smoke", runs)


def test_figures_are_drawn(report, tmp_path):
    experiment, result = report
    summary = Summary(experiment, result)
    for drawing in experiment.figures:
        write_figure(drawing, summary, tmp_path)
    assert sorted(path.stem for path in tmp_path.glob("*.png")) == ["figure", "generated", "rows"]


def test_findings_say_who_is_ahead_and_whether_coverage_improves(report):
    experiment, result = report
    found = experiment.findings(Summary(experiment, result))
    starts = partial(_starting, found)
    assert "Yes: by +1 [+1, +1], in 3 of 3 seeds" in starts(f"Is ITD ahead of isolation forest by test FID, {ONE}?")
    assert "by chance in 1 of 4 cases" in starts(f"Is ITD ahead of AID by test FID, {ONE}?")
    assert "These seeds do not tell" in starts(f"Is ITD ahead of random by test FID, {FULL}?")
    coverage = starts(f"Change of test coverage at the rate of best validation FID, {ONE}")
    assert "ITD +0.21 [+0.2, +0.22], better in 3 of 3 seeds" in coverage
    assert "random +0 [+0, +0], better in 0 of 3 seeds" in coverage
    assert "ITD -0.9 [-1, -0.8], better in 3 of 3 seeds" in starts("Change of test FID at the rate of best valid")


def _starting(found, beginning):
    return next(sentence for sentence in found if sentence.startswith(beginning))


def test_measures_of_a_strategy_that_did_not_run_are_not_shown(report):
    experiment, result = report
    shown = [q.table for q in Summary(experiment, {**result, "settings": {**TINY, "strategies": [ONE]}}).quantities]
    assert table("Coverage", ONE) in shown
    assert table("Coverage", FULL) not in shown
    assert at_best(FULL) not in shown
