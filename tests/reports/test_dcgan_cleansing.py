"""The report on cleansing DCGAN (TNNLS Tables VIII and IX, ICLR Tables 7 and 8)."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from support.results import cell_of, result_of

import gan_influence as gi
from gan_influence.baselines import isolation_forest, random_order
from reports.experiments import EXPERIMENTS, dcgan_cleansing
from reports.experiments.dcgan_cleansing import (
    BEFORE,
    CONTROLS,
    FID_ITD,
    FOREST,
    FULL,
    IS_ITD,
    LOSS_ITD,
    MEASURES,
    ONE,
    OVERSAMPLED,
    RANDOM,
    SAME_CLASSES,
    SCALED,
    SELECTIONS,
    TRANSFER,
    controls,
    table,
)
from reports.figures import write_figure
from reports.parts import cleansing
from reports.parts.cleansing import as_many_of_each, most_harmful, without
from reports.parts.dcgan import Streams
from reports.statistics import compared, holm
from reports.summary import Summary, load_published

CLEANSING = EXPERIMENTS["dcgan-cleansing"]
TINY = {
    **dcgan_cleansing.SMOKE,
    "rows": 60,
    "batch": 20,
    "channels": 2,
    "steps": 7,
    "lr": 0.02,
    "metric_latents": 130,
    "test_latents": 130,
    "neighbour_rows": 25,
    "neighbours": 2,
    "terms": 3,
    "rates": [0.1, 0.5],
    "strategies": [ONE, FULL],
    "shown": 4,
}


# --- which rows leave


def test_the_most_harmful_leave_first_and_of_equals_the_first():
    harm = torch.tensor([0.5, 2.0, -1.0, 2.0])
    assert [taken.tolist() for taken in most_harmful(harm, [0.25, 0.75])] == [[1], [1, 3, 0]]
    assert without([torch.tensor([1]), torch.tensor([0, 3])], 4).tolist() == [[1, 0, 1, 1], [0, 1, 1, 0]]


def test_as_many_of_each_kind_leave_at_random_and_more_include_fewer():
    kinds = torch.arange(60) % 4
    few, many = (torch.arange(0, size, 3) for size in (15, 45))
    for taken in (few, many):
        alike = as_many_of_each(kinds, taken, seed=1)
        assert len(set(alike.tolist())) == len(taken)
        assert kinds[alike].bincount(minlength=4).tolist() == kinds[taken].bincount(minlength=4).tolist()
        assert set(alike.tolist()) != set(taken.tolist())
    assert set(as_many_of_each(kinds, few, 1).tolist()) <= set(as_many_of_each(kinds, many, 1).tolist())


# --- one seed


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    return CLEANSING.prepare(TINY, 0, tmp_path_factory.mktemp("classifier"), "cpu")


@pytest.fixture(scope="module")
def given(prepared):
    stored = prepared["classifier"], prepared["run"]
    return dcgan_cleansing._given(dcgan_cleansing.json.dumps(TINY), 0, *stored, "cpu")


@pytest.fixture(scope="module")
def records(prepared):
    return {unit: CLEANSING.run_unit(TINY, 0, unit, "cpu", prepared) for unit in CLEANSING.units(TINY)}


@pytest.fixture(scope="module")
def values(records):
    return CLEANSING.combine(TINY, records)


def orders_of(given, strategy) -> dict[str, torch.Tensor]:
    """Every selection's order of the rows in the papers' words: what raises FID, lowers IS, lowers the loss."""
    trace, loss = given.trace, gi.metrics.DiscriminatorLoss(*given.validation)
    itd = {"last": 3} if strategy == ONE else {"damping": 0.1}
    aid = {"terms": 3, "damping": 0.1}
    features = given.classifier.features(trace.data).detach()
    harmful = (  # without such a row FID falls, IS rises, the loss rises
        -gi.itd(trace, given.metrics["FID"], **itd),
        -gi.aid(trace, given.metrics["FID"], **aid),
        gi.itd(trace, given.metrics["IS"], **itd),
        gi.aid(trace, given.metrics["IS"], **aid),
        -gi.itd(trace, loss, **itd),
        -gi.aid(trace, loss, **aid),
        -isolation_forest(features),
        -random_order(60, Streams.of(0).choice),
    )
    ordered = (scores.double().argsort(descending=True, stable=True) for scores in harmful)
    return dict(zip(SELECTIONS, ordered, strict=True))


def check_cells(values, given, strategy) -> None:
    """Each cell by retraining without the very rows, which removes, trains and measures another way.

    In float32: a hundredth of the largest change is what rounding does to any.
    """
    orders, last = orders_of(given, strategy), 3 if strategy == ONE else None
    removals = [order[:size].tolist() for order in orders.values() for size in (6, 30)]
    metrics = [given.judge.metrics[measure] for measure in ("IS", "FID")]
    for measure, expected in zip(("IS", "FID"), gi.counterfactual(given.trace, metrics, removals, last), strict=True):
        found = [value for row in orders for value in values[table(measure, strategy)][row].values()]
        assert found == pytest.approx(expected.tolist(), abs=0.01 * float(expected.abs().max())), measure


@pytest.mark.parametrize("strategy", [ONE, FULL])
def test_cells_are_those_of_retraining_without_the_most_harmful_rows(strategy, values, given):
    check_cells(values, given, strategy)


def helpful_first(monkeypatch):
    right = dcgan_cleansing.by_influence
    monkeypatch.setattr(dcgan_cleansing, "by_influence", lambda *a, **k: lambda *own: -right(*a, **k)(*own))


def larger_loss_is_better(monkeypatch):
    monkeypatch.setattr(gi.metrics.DiscriminatorLoss, "larger_is_better", True)


def retrained_from_the_start(monkeypatch):
    right = cleansing.trained_with
    monkeypatch.setattr(cleansing, "trained_with", lambda trace, weights, start: right(trace, weights, 0))


def mean_over_kept_rows(monkeypatch):
    right = dcgan_cleansing.without
    monkeypatch.setattr(dcgan_cleansing, "without", lambda *own: right(*own) / right(*own).mean(dim=1, keepdim=True))


@pytest.mark.parametrize("fault", [helpful_first, larger_loss_is_better, retrained_from_the_start, mean_over_kept_rows])
def test_a_fault_in_a_cell_is_seen(fault, records, prepared, given, monkeypatch):
    with monkeypatch.context() as patched:
        fault(patched)
        wrong = {unit: CLEANSING.run_unit(TINY, 0, unit, "cpu", prepared) for unit in ("one-0", "one-4")}
    with pytest.raises(AssertionError):
        check_cells(CLEANSING.combine(TINY, {**records, **wrong}), given, ONE)


def test_the_scaled_control_removes_no_row(values, given):
    game, schedule = given.trace.game, given.trace.batch
    shrunk = gi.train(game, given.trace.data, schedule, 7, gi.SGD(TINY["lr"]), weights=torch.full((60,), 0.5))
    change = float(given.judge.metrics["FID"](shrunk)) - given.before[1]
    assert values[controls("FID", FULL)][SCALED]["0.50"] == pytest.approx(change, rel=1e-2, abs=5e-5)


def test_controls_take_as_many_of_each_class(given, monkeypatch, prepared):
    seen = []

    def recorded(trace, weights, start, at_once):
        seen.append(weights)
        return [None] * len(weights)

    monkeypatch.setattr(dcgan_cleansing, "retrained", recorded)
    record = CLEANSING.run_unit(TINY, 0, "one-0", "cpu", prepared)
    ours, alike = seen
    assert list(record["changes"]) == [FID_ITD, SAME_CLASSES[FID_ITD]]
    for one, other in zip(ours, alike, strict=True):
        assert given.labels[one == 0].bincount(minlength=10).tolist() == (
            given.labels[other == 0].bincount(minlength=10).tolist()
        )
        assert not torch.equal(one, other)


def test_all_measures_are_those_of_images_made_from_fresh_latents(given, values):
    images = given.trace.players().generate(given.judge.latents)
    made, real = (
        given.classifier.features(part).detach() for part in (images[:25], torch.as_tensor(test_images()[:25]))
    )
    near = gi.metrics.precision_recall_density_coverage(real, made, k=2)
    probabilities = given.classifier(images).double().softmax(1)
    entropy = (probabilities * (probabilities / probabilities.mean(0)).log()).sum(1).mean()
    line = values[BEFORE]["Factual run"]
    assert line["IS"] == pytest.approx(float(entropy.exp()), rel=1e-6)
    assert [line[name] for name in MEASURES[2:]] == pytest.approx(list(near))


def test_images():
    return dcgan_cleansing.splits(TINY, 0)[2].images


test_images.__test__ = False


def test_a_selection_that_fails_has_no_cells_and_the_others_have_theirs(records, monkeypatch, prepared):
    def fails(*arguments, **options):
        raise gi.ConvergenceError("the series grows")

    monkeypatch.setattr(gi, "aid", fails)
    monkeypatch.setitem(
        dcgan_cleansing.METHODS, SELECTIONS[1], dcgan_cleansing.METHODS[SELECTIONS[1]]._replace(estimator=fails)
    )
    record = CLEANSING.run_unit(TINY, 0, "one-1", "cpu", prepared)
    assert record["failed"] == "the series grows"
    found = CLEANSING.combine(TINY, {**records, "one-1": record})
    assert found[table("IS", ONE)][SELECTIONS[1]] == {"0.10": None, "0.50": None}
    assert None not in found[table("IS", ONE)][FID_ITD].values()


def test_retrainings_that_diverge_have_no_cell_and_those_beside_them_have(given, monkeypatch):
    right = cleansing.trained_with

    def diverges(trace, weights, start):
        if (weights == 0).sum(1).max() > 10:
            raise gi.DivergenceError(3, "discriminator", "loss", (), None)
        return right(trace, weights, start)

    monkeypatch.setattr(cleansing, "trained_with", diverges)
    weights = without([torch.arange(6), torch.arange(30)], 60)
    few, many = cleansing.retrained(given.trace, weights, 4, at_once=2)
    assert many is None
    assert torch.equal(few, right(given.trace, weights[:1], 4)[0])


def test_classes_that_are_made_too_often_and_harmful_correlate(given, monkeypatch):
    made = torch.cat([torch.full((k + 1,), k) for k in range(10)])
    monkeypatch.setattr(dcgan_cleansing, "labels_of", lambda *own: made)
    share = given.labels.bincount(minlength=10) / 60
    over = (torch.arange(1, 11) + 0.5) / 55 / share
    assert dcgan_cleansing.by_class(given, over[given.labels].double())[0] == pytest.approx(1.0)
    assert dcgan_cleansing.by_class(given, -over[given.labels].double())[0] == pytest.approx(-1.0)


def test_images_are_kept_as_bytes():
    images = torch.linspace(-1, 1, 3 * 64).reshape(3, 1, 8, 8)
    back = dcgan_cleansing.from_text(dcgan_cleansing.as_text(images))
    assert back.shape == (3, 8, 8)
    assert np.abs(back / 127.5 - 1 - images[:, 0].numpy()).max() <= 0.5 / 127.5 + 1e-6


def test_the_first_seed_has_pictures_of_what_is_shown(records):
    pictures = {key: own for record in records.values() for key, own in record.get("pictures", {}).items()}
    assert list(pictures) == [FID_ITD, IS_ITD, FOREST]
    assert all(len(dcgan_cleansing.from_text(pictures[FID_ITD][name])) == 4 for name in ("harmful", "before", "after"))
    assert sum(pictures[FID_ITD]["shares"]["removed"]) == pytest.approx(1)


def test_the_run_is_trained_once_and_again_where_its_file_is_damaged(prepared, tmp_path, monkeypatch):
    folder = Path(prepared["run"]).parent
    trained = []
    right = dcgan_cleansing.trained
    monkeypatch.setattr(dcgan_cleansing, "trained", lambda *a, **k: trained.append(1) or right(*a, **k))
    assert CLEANSING.prepare(TINY, 0, folder, "cpu") == prepared
    assert not trained
    for name in ("seed-0.classifier.pt", "seed-0.run.pt"):
        (tmp_path / name).write_bytes((folder / name).read_bytes())
    (tmp_path / "seed-0.run.pt").write_bytes((folder / "seed-0.run.pt").read_bytes()[:-9])
    assert CLEANSING.prepare(TINY, 0, tmp_path, "cpu")["digest"] == prepared["digest"]
    assert trained == [1]
    assert len(list(tmp_path.glob("*set-aside*"))) == 1


def test_a_factual_run_that_diverges_is_every_units_own(prepared, tmp_path):
    wild = {**TINY, "lr": 1e30}
    found = CLEANSING.prepare(wild, 0, tmp_path, "cpu")
    assert found["run"] is None
    with pytest.raises(gi.DivergenceError):
        CLEANSING.run_unit(wild, 0, "one-7", "cpu", found)


# --- the report


def test_printed_cells_are_the_papers():
    published = load_published("dcgan-cleansing")
    assert len(published.cells) == 2 * 2 * 8 * 10 + 2 * 5 * 10
    for (of, row, column), value, std in (
        ((table("IS", FULL), FID_ITD, "0.30"), 0.09, 0.21),
        ((table("FID", FULL), RANDOM, "0.50"), -0.34, 0.40),
        ((table("FID", ONE), FID_ITD, "0.50"), -0.39, 0.27),
        ((table("IS", ONE), LOSS_ITD, "0.10"), -0.14, 0.23),
        (("Table 7", "Influence on IS", "25.0k"), 0.14, 0.14),
        (("Table 8", FOREST, "45.0k"), 6.99, 3.57),
    ):
        assert (published.cells[of, row, column]["value"], published.cells[of, row, column]["std"]) == (value, std)


def test_every_printed_cell_has_a_place_at_the_papers_settings():
    result = result_of(CLEANSING, "paper", [])
    places = {(cell["table"], cell["row"], cell["column"]) for cell in result["cells"]}
    assert set(load_published("dcgan-cleansing").cells) <= places


def runs_of(values, count=6):
    """Made-up seeds around one that was run."""
    rng = np.random.default_rng(0)

    def shifted(lines):
        return {
            row: {column: None if value is None else value + 0.01 * rng.normal() for column, value in line.items()}
            for row, line in lines.items()
        }

    return [
        {"seed": k, "seconds": 1.0, "values": {of: shifted(lines) for of, lines in values.items()}}
        for k in range(count)
    ]


@pytest.fixture(scope="module")
def report(values, records):
    experiment = replace(CLEANSING, presets={"smoke": replace(CLEANSING.presets["smoke"], settings=TINY)})
    runs = runs_of(values)
    runs[0]["pictures"] = {k: own for record in records.values() for k, own in record.get("pictures", {}).items()}
    return experiment, result_of(experiment, "smoke", runs)


def test_iclr_stands_beside_one_epoch_of_retraining(report):
    _, result = report
    for measure, of_iclr in (("IS", "Table 7"), ("FID", "Table 8")):
        ours = cell_of(result, table(measure, ONE), LOSS_ITD, "0.50")
        assert cell_of(result, of_iclr, "Influence on Disc. Loss", "0.0k")["seeds"] == ours["seeds"]


def test_figures_are_drawn_and_findings_said(report, tmp_path):
    experiment, result = report
    summary = Summary(experiment, result)
    for drawing in experiment.figures:
        write_figure(drawing, summary, tmp_path)
    assert len(list(tmp_path.glob("*.png"))) == 3
    found = "\n".join(experiment.findings(summary))
    for part in (
        "Before cleansing",
        "By FID, one-epoch",
        "against isolation forest",
        "chosen by IS by ITD",
        "too often",
    ):
        assert part in found


def test_an_improvement_of_fid_is_a_fall(report):
    experiment, result = report
    ours, theirs = (
        {"0.10": level, "0.50": level - 0.5} for level in (-1.0, 0.0)
    )  # ITD lowers FID by more than random removal
    rng = np.random.default_rng(1)
    for run in result["runs"]:
        for row, line in ((FID_ITD, ours), (RANDOM, theirs), (FOREST, theirs)):
            run["values"][table("FID", ONE)][row] = {c: v + 0.01 * rng.normal() for c, v in line.items()}
    found = experiment.findings(Summary(experiment, result))
    [sentence] = [s for s in found if s.startswith(f"By FID, {ONE}: FID by ITD against random: ")]
    assert "ahead at 0.10, 0.50 by t-tests" in sentence
    assert "+1.0" in sentence
    values = [[run["values"][table("FID", ONE)][row]["0.10"] for run in result["runs"]] for row in (RANDOM, FID_ITD)]
    assert f"{compared(*values).difference:+.2f}" == "+1.00"
    assert holm([0.01, 0.5])[0] == 0.02
    [order] = [s for s in found if s.startswith("Change of test FID at rate 0.50, one-epoch")]
    assert order.index("FID by ITD") < order.index("random")


def test_controls_and_other_measures_are_shown_of_strategies_that_ran(report):
    experiment, result = report
    one = {**result, "settings": {**TINY, "strategies": [ONE]}}
    shown = [quantity.table for quantity in Summary(experiment, one).quantities]
    assert controls("FID", ONE) in shown
    assert controls("FID", FULL) not in shown
    assert f"{TRANSFER}, {FULL}" not in shown
    assert table("FID", FULL) in shown
    assert OVERSAMPLED in shown
    assert len(CONTROLS) == 3
