"""Direction, ranks and groups of scores; selections; and the linear datamodelling score."""

import math
from functools import partial
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from scipy.stats import spearmanr
from support.games import lqgan, minibatch_mlp, mlp, normal

import gan_influence as gi
from gan_influence import baselines
from gan_influence.metrics.metric import Metric

LARGER, SMALLER = SimpleNamespace(larger_is_better=True), SimpleNamespace(larger_is_better=False)
SCORES = torch.tensor([0.5, -2.0, 0.0, 3.0, -0.1, 0.5]).double()


def test_removing_what_raises_a_metric_helps_where_larger_is_better_and_harms_where_smaller_is():
    assert gi.harmfulness(SCORES, LARGER).tolist() == SCORES.tolist()
    assert gi.harmfulness(SCORES, SMALLER).tolist() == (-SCORES).tolist()


def test_the_most_harmful_rows_come_first_and_equal_ones_in_their_order():
    assert gi.harmful_rows(SCORES, LARGER, count=5).tolist() == [3, 0, 5]
    assert gi.harmful_rows(SCORES, LARGER, count=2).tolist() == [3, 0]
    assert gi.harmful_rows(SCORES, LARGER, count=5, only_harmful=False).tolist() == [3, 0, 5, 2, 4]
    assert gi.harmful_rows(SCORES, SMALLER, count=5).tolist() == [1, 4]
    assert gi.harmful_rows(SCORES, SMALLER, rate=0.34).tolist() == [1, 4]  # int(.34 * 6)


@pytest.mark.parametrize(
    ("metric", "larger"),
    [
        (gi.metrics.AverageLogLikelihood, True),
        (gi.metrics.InceptionScore, True),
        (gi.metrics.FrechetDistance, False),
        (gi.metrics.DiscriminatorLoss, False),
        (gi.metrics.AverageLoss, False),
        (gi.metrics.PlayerLoss, False),
    ],
)
def test_every_metric_knows_its_direction(metric, larger):
    assert metric.larger_is_better is larger


def test_no_metric_is_without_a_direction():
    known = [getattr(gi.metrics, name) for name in gi.metrics.__all__]
    scored = [one for one in known if hasattr(one, "value") and one is not Metric]
    assert len(scored) == 6
    assert all(isinstance(one.larger_is_better, bool) for one in scored)


def test_rows_chosen_by_direction_help_when_they_are_removed():
    """Of a metric and of its opposite, by retraining."""
    problem = lqgan()
    trace, metric = problem.train(30), problem.metric()

    class Opposite:
        larger_is_better = False

        def value(self, players):
            return -metric.value(players)

    for one in (metric, Opposite()):
        rows = gi.harmful_rows(gi.itd(trace, one), one, count=4)
        change = float(gi.counterfactual(trace, one, [rows.tolist()])[0])
        assert (change > 0) is one.larger_is_better


@pytest.mark.parametrize(
    ("scores", "metric", "options", "error", "message"),
    [
        (SCORES, lambda players: 0, {"count": 1}, TypeError, "metric <lambda> does not say whether larger is better"),
        (SCORES, SimpleNamespace(larger_is_better=1), {"count": 1}, TypeError, "larger_is_better, True or False"),
        (SCORES, LARGER, {}, ValueError, "either rate or count, got rate=None and count=None"),
        (SCORES, LARGER, {"rate": 0.5, "count": 3}, ValueError, "either rate or count"),
        (SCORES, LARGER, {"rate": 1.0}, ValueError, r"rate must be .* in \(0, 1\), got 1.0"),
        (SCORES, LARGER, {"rate": 0.0}, ValueError, r"rate must be .* in \(0, 1\)"),
        (SCORES, LARGER, {"rate": math.nan}, ValueError, r"rate must be .* in \(0, 1\)"),
        (SCORES, LARGER, {"count": 6}, ValueError, "count must be a number of rows from 1 to 5, of 6, got 6"),
        (SCORES, LARGER, {"count": True}, ValueError, "count must be"),
        (SCORES.repeat(2, 1), LARGER, {"count": 1}, ValueError, r"one a row, got shape \(2, 6\)"),
        (SCORES.long(), LARGER, {"count": 1}, TypeError, "floating-point tensor .* got torch.int64"),
        (SCORES.tolist(), LARGER, {"count": 1}, TypeError, "floating-point tensor .* got list"),
        (SCORES.log(), LARGER, {"count": 1}, ValueError, "NaN or infinity, first for row 1"),
    ],
)
def test_what_cannot_be_ranked_is_refused(scores, metric, options, error, message):
    with pytest.raises(error, match=message):
        gi.harmful_rows(scores, metric, **options)


# ------------------------------------------------------------------------------------------------------------ groups


def test_group_scores_are_sums():
    labels = ["b", "a", "b", "c", "a", "b"]
    found = gi.group_scores(SCORES, labels)
    assert list(found) == ["b", "a", "c"]
    assert [float(value) for value in found.values()] == pytest.approx([1.0, -2.1, 3.0])
    several = gi.group_scores(torch.stack([SCORES, 2 * SCORES]), torch.tensor([0, 1, 0, 2, 1, 0]))
    torch.testing.assert_close(several[1], torch.tensor([-2.1, -4.2]).double())
    with pytest.raises(ValueError, match="there are 6 rows, but groups of 3"):
        gi.group_scores(SCORES, labels[:3])
    with pytest.raises(TypeError, match="a list of labels"):
        gi.group_scores(SCORES, "abcabc")


def test_scores_of_groups_are_validated_by_removing_whole_groups():
    problem = lqgan()
    trace, metric = problem.train(20), problem.metric()
    scores, files = gi.itd(trace, metric), [f"file {row // 3}" for row in range(24)]
    found = gi.validate(trace, metric, scores, rows=6, groups=files)
    removals = [[row for row in range(24) if files[row] == name] for name in found.rows]
    torch.testing.assert_close(found.truth, gi.counterfactual(trace, metric, removals), rtol=1e-9, atol=1e-15)
    torch.testing.assert_close(found.estimates, torch.stack([scores[rows].sum() for rows in removals]))
    assert found.trusted
    assert not gi.validate(trace, metric, -scores, rows=6, groups=files).trusted
    named = ["file 0", "file 7", "file 3", "file 5"]
    assert gi.validate(trace, metric, scores, rows=named, groups=files).rows == tuple(named)


@pytest.mark.parametrize("rows", [3, 9, ["file 0"], ["file 0", "file 1", "file 2", "file 9"], ["file 0"] * 4, 4.5])
def test_groups_that_cannot_be_validated_are_refused(rows):
    problem = lqgan()
    trace, metric = problem.train(3), problem.metric()
    with pytest.raises(ValueError, match="rows must be"):
        gi.validate(trace, metric, gi.itd(trace, metric), rows=rows, groups=[f"file {row // 3}" for row in range(24)])


@pytest.mark.parametrize("kind", [torch.tensor, np.array], ids=["torch", "numpy"])
def test_rows_may_be_named_by_masks_and_index_tensors(kind):
    problem = lqgan()
    trace, metric = problem.train(5), problem.metric()
    expected = gi.counterfactual(trace, metric, [[1, 3]])
    mask = kind([row in (1, 3) for row in range(24)])
    assert gi.counterfactual(trace, metric, [mask]).equal(expected)
    assert gi.counterfactual(trace, metric, [kind([1, 3])]).equal(expected)
    assert gi.retrain(trace, mask).weights.equal(gi.retrain(trace, [1, 3]).weights)
    with pytest.raises(IndexError, match=r"removed is a mask of shape \(23,\), but the data has 24 rows"):
        gi.retrain(trace, mask[:23])


# -------------------------------------------------------------------------------------------------------- selections


def test_selections_put_the_most_harmful_rows_first():
    problem = mlp()
    trace, metric = problem.train(6), problem.metric()
    loss = gi.metrics.DiscriminatorLoss(problem.reference, problem.fresh)
    expected = {
        baselines.by_influence(): gi.itd(trace, metric),
        baselines.by_influence(gi.aid, terms=3): gi.aid(trace, metric, terms=3),
        baselines.by_discriminator_loss(problem.reference, problem.fresh): -gi.itd(trace, loss),
        baselines.by_discriminator_loss(problem.reference, problem.fresh, gi.aid, terms=3): -gi.aid(
            trace, loss, terms=3
        ),
        baselines.by_isolation_forest(): -baselines.isolation_forest(problem.data),
        baselines.by_isolation_forest(lambda rows: rows[:, :1], seed=1): -baselines.isolation_forest(
            problem.data[:, :1], seed=1
        ),
        baselines.by_chance(3): -baselines.random_order(14, 3),
    }
    for selection, harm in expected.items():
        assert selection(trace, metric).equal(harm)


def test_abnormal_rows_are_the_forests_first():
    problem = mlp(data=torch.cat([normal(1, 13, 2), torch.full((1, 2), 9.0).double()]))
    assert int(baselines.by_isolation_forest()(problem.train(1), None).argmax()) == 13


def test_rows_that_are_no_single_tensor_need_features():
    trace = SimpleNamespace(data=(torch.zeros(3, 2), torch.zeros(3)), size=3)
    with pytest.raises(TypeError, match="need features="):
        baselines.by_isolation_forest()(trace, None)
    assert baselines.by_isolation_forest(lambda rows: rows[0])(trace, None).shape == (3,)


# --------------------------------------------------------------------------------------------------------------- lds


@pytest.mark.parametrize("make", [lqgan, minibatch_mlp])
def test_lds_is_spearmans_of_summed_scores_and_runs_on_random_subsets(make):
    """By retraining one after another, and scipy."""
    problem = make()
    trace, metric = problem.train(12), problem.metric()
    scores, n = gi.itd(trace, metric), len(problem.data)
    found = gi.lds(trace, metric, scores, subsets=6, fraction=0.7, seed=4)
    rng, kept = np.random.default_rng([4, 2]), round(0.7 * n)
    predictions, truth = [], []
    for _ in range(6):
        out = rng.permutation(n)[kept:].tolist()
        predictions.append(float(scores[out].sum()))
        truth.append(float(gi.measure(metric, gi.retrain(trace, out)) - gi.measure(metric, trace)))
    assert found.predictions.tolist() == pytest.approx(predictions, rel=1e-9)
    assert found.truth.tolist() == pytest.approx(truth, rel=1e-6)
    assert found.correlation == pytest.approx(spearmanr(predictions, truth).statistic)
    assert found.low <= found.correlation <= found.high
    assert 0 < found.noise_floor < 1e-6 * found.spread


def test_lds_tells_good_scores_from_chance_and_from_their_opposite():
    problem = lqgan(60)
    trace, metric = problem.train(40), problem.metric()
    scores = gi.itd(trace, metric)
    given = {"itd": scores, "opposite": -scores, "chance": baselines.random_order(60, 0)}
    found = gi.lds(trace, metric, given, subsets=40, fraction=0.9)
    assert found["itd"].correlation > 0.95
    assert found["opposite"].correlation == pytest.approx(-found["itd"].correlation)
    assert abs(found["chance"].correlation) < 0.5
    assert found["itd"].low > found["chance"].high
    constant = gi.lds(trace, metric, torch.zeros(60).double(), subsets=5)
    assert math.isnan(constant.correlation)
    assert math.isnan(constant.low)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"subsets": 3}, "subsets must be"),
        ({"fraction": 1.0}, "fraction must be"),
        ({"fraction": 0.0}, "fraction must be"),
        ({"fraction": None}, "fraction must be"),
        ({"seed": -1}, "seed must be"),
        ({"replicas": 0}, "replicas must be"),
    ],
)
def test_settings_that_lds_cannot_use_are_refused(options, message):
    problem = lqgan()
    trace, metric = problem.train(2), problem.metric()
    score = partial(gi.lds, trace, metric)
    with pytest.raises(ValueError, match=message):
        score(gi.itd(trace, metric), **options)
    with pytest.raises(ValueError, match="one a row"):
        score(torch.zeros(5))
