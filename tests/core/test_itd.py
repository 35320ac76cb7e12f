"""ITD against autograd through the unrolled run, finite differences, and dense matrices (TNNLS eq. 9, 10, 15-17)."""

import dataclasses
import math
from itertools import pairwise

import pytest
import torch
from support.games import (
    COSTS,
    GAMES,
    EpochBatches,
    dense_itd,
    lqgan,
    mlp,
    normal,
    relative_error,
    same_bits,
    unrolled_scores,
)

import gan_influence as gi

each_game = pytest.mark.parametrize("make", GAMES.values(), ids=GAMES)
STEPS = 8


@each_game
@pytest.mark.parametrize("loss", COSTS)
@pytest.mark.parametrize("rates", [(0.02, 0.02), (0.02, 0.01)], ids=["one-rate", "two-rates"])
def test_itd_equals_gradient_of_unrolled_training(make, loss, rates):
    problem = make(loss=loss, l2=(0.3, 0.2), rates=rates)
    scores = gi.itd(problem.train(STEPS), problem.metric())
    assert relative_error(scores, unrolled_scores(problem, STEPS)) < 1e-12


def test_itd_equals_gradient_of_unrolled_training_past_the_recorded_step():
    problem = lqgan(rates=(0.02, 0.03))
    scores = gi.itd(problem.train(150), problem.metric())
    assert relative_error(scores, unrolled_scores(problem, 150)) < 1e-12


def test_rows_that_no_batch_used_score_zero():
    problem = lqgan()
    problem = problem.but(schedule=EpochBatches(len(problem.data), 5, (1,), seed=3))
    used = torch.cat([problem.schedule(t).indices for t in range(2)]).unique()
    scores = gi.itd(problem.train(2), problem.metric())
    unused = torch.ones(len(problem.data), dtype=torch.bool).index_fill(0, used, False)
    assert unused.sum() == len(problem.data) - 10
    assert scores[unused].eq(0).all()


@each_game
@pytest.mark.parametrize("damping", [0.0, 0.5])
@pytest.mark.parametrize("rates", [(0.1, 0.1), (0.1, 0.03)], ids=["one-rate", "two-rates"])
@pytest.mark.parametrize("last", [None, 0, 1, 2, 5])
def test_itd_equals_the_dense_recursion(make, damping, rates, last):
    problem = make(loss="non_saturating", rates=rates)
    scores = gi.itd(problem.train(6), problem.metric(), damping=damping, last=last)
    expected = dense_itd(problem, 6, damping, last)
    assert (scores - expected).norm() <= 1e-12 * expected.norm()
    assert scores.eq(0).all() == (last in (0, 1))


def test_one_step_leaves_the_generator_where_it_was():
    problem = lqgan()
    assert gi.itd(problem.train(1), problem.metric()).eq(0).all()
    assert gi.itd(problem.train(2), problem.metric()).ne(0).all()


@pytest.mark.parametrize("make", GAMES.values(), ids=GAMES)
@pytest.mark.parametrize("row", [0, 5])
def test_finite_differences_in_a_rows_weight_converge_to_the_score_at_second_order(make, row):
    problem = make()
    metric, axis = problem.metric(), torch.eye(len(problem.data), dtype=torch.float64)[row]
    score = float(gi.itd(problem.train(40), metric)[row])

    def metric_at(weight_change: float) -> float:
        return float(metric(problem.train(40, weights=problem.ones + weight_change * axis)))

    halvings = [0.4, 0.2, 0.1, 0.05]
    slopes = [-(metric_at(h) - metric_at(-h)) / (2 * h) for h in halvings]
    errors = [abs(slope - score) for slope in slopes]
    orders = [math.log2(coarse / fine) for coarse, fine in pairwise(errors)]
    assert all(1.8 < order < 2.2 for order in orders), orders
    extrapolated = (4 * slopes[-1] - slopes[-2]) / 3
    assert abs(extrapolated - score) < 1e-4 * abs(slopes[0] - score)


def test_damping_is_l2_on_both_players_along_the_same_states():
    problem, gamma = mlp(l2=(0.2, 0.1)), 0.4
    trace = problem.train(STEPS)
    regularised = problem.but(l2=(0.2 + gamma, 0.1 + gamma)).game()
    expected = gi.itd(dataclasses.replace(trace, game=regularised), problem.metric())
    damped = gi.itd(trace, problem.metric(), damping=gamma)
    assert relative_error(damped, expected) < 1e-12
    assert relative_error(damped, gi.itd(trace, problem.metric())) > 1e-2


def test_scores_carry_the_weights_of_the_run():
    problem = lqgan()
    weights = 1 + 0.3 * normal(20, len(problem.data))
    trace = problem.train(STEPS, weights=weights)
    h, axis = 1e-5, torch.eye(len(problem.data), dtype=torch.float64)[4]
    ends = [float(problem.metric()(problem.train(STEPS, weights=weights + s * h * axis))) for s in (1, -1)]
    expected = -float(weights[4]) * (ends[0] - ends[1]) / (2 * h)
    assert float(gi.itd(trace, problem.metric())[4]) == pytest.approx(expected, rel=1e-6)


@pytest.mark.bits
def test_itd_of_a_retrained_window_sweeps_that_window():
    problem = lqgan()
    trace = problem.train(9)
    window = gi.retrain(trace, [], last=4)
    assert same_bits(gi.itd(window, problem.metric()), gi.itd(trace, problem.metric(), last=4))
