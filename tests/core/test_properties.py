"""Properties that hold for every game, row and seed."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from support.games import EpochBatches, lqgan, mlp, normal, same_bits

import gan_influence as gi

makes = st.sampled_from([lqgan, mlp])
seeds = st.integers(0, 10**6)
STEPS = 6


def close(actual, expected):
    torch.testing.assert_close(actual, expected, rtol=1e-10, atol=1e-14)


def all_scores(problem, removals):
    trace = problem.train(STEPS)
    return (
        gi.itd(trace, problem.metric()),
        gi.aid(trace, problem.metric(), terms=5),
        gi.counterfactual(trace, problem.metric(), removals),
    )


@given(makes, seeds)
def test_permuting_rows_permutes_scores(make, seed):
    problem = make()
    order = torch.randperm(len(problem.data), generator=torch.Generator().manual_seed(seed))
    each = [[j] for j in range(len(order))]
    permuted = all_scores(problem.but(data=problem.data[order]), each)
    for scores, expected in zip(permuted, all_scores(problem, each), strict=True):
        close(scores, expected[order])


@given(makes, st.integers(0, 13))
def test_both_copies_of_a_duplicated_row_get_the_same_score(make, row):
    problem = make()
    doubled = problem.but(data=torch.cat([problem.data, problem.data[row : row + 1]]))
    last = len(problem.data)
    by_itd, by_aid, by_retraining = all_scores(doubled, [[row], [last]])
    close(by_itd[row], by_itd[last])
    close(by_aid[row], by_aid[last])
    close(by_retraining[0], by_retraining[1])


class Combination:
    """``a * first + b * second``."""

    def __init__(self, a, first, b, second):
        self.a, self.first, self.b, self.second = a, first, b, second

    def value(self, players):
        return self.a * self.first.value(players) + self.b * self.second.value(players)


class SecondMoment:
    def __init__(self, latents):
        self.latents = latents

    def value(self, players):
        return players.generate(self.latents).square().mean()


@given(makes, st.floats(-3, 3), st.floats(-3, 3))
def test_scores_are_linear_in_the_metric(make, a, b):
    problem = make()
    trace, first, second = problem.train(STEPS), problem.metric(), SecondMoment(problem.fresh)
    scoring = (
        gi.itd,
        lambda *of: gi.aid(*of, terms=5),
        lambda *of: gi.counterfactual(*of, [[1], [2, 3]]),
    )
    for score in scoring:
        combined = score(trace, Combination(a, first, b, second))
        torch.testing.assert_close(combined, a * score(trace, first) + b * score(trace, second), rtol=1e-9, atol=1e-13)


@given(makes, st.lists(st.sets(st.integers(0, 13), max_size=4).map(sorted), min_size=1, max_size=5))
def test_batched_and_single_removals_agree(make, removals):
    problem = make()
    trace = problem.train(STEPS)
    together = gi.counterfactual(trace, problem.metric(), removals)
    alone = [gi.counterfactual(trace, problem.metric(), [removed])[0] for removed in removals]
    torch.testing.assert_close(together, torch.stack(alone), rtol=0, atol=1e-13)


@given(makes, st.integers(0, 13))
def test_a_row_of_weight_zero_has_no_influence(make, row):
    problem = make()
    trace = gi.retrain(problem.train(STEPS), [row])
    assert gi.itd(trace, problem.metric())[row] == 0
    assert gi.aid(trace, problem.metric(), terms=5)[row] == 0
    assert gi.counterfactual(trace, problem.metric(), [[row]])[0] == 0


@pytest.mark.bits
@given(makes, seeds)
def test_same_seed_same_bits(make, seed):
    def run():
        problem = make(n=14)
        shape = problem.schedule(0).latents.shape[1:]
        problem = problem.but(data=normal(seed, *problem.data.shape), schedule=EpochBatches(14, 4, shape, seed))
        trace = problem.train(STEPS)
        scores = gi.itd(trace, problem.metric()), gi.aid(trace, problem.metric(), terms=4)
        return trace.states, *scores, gi.counterfactual(trace, problem.metric(), [[1], [2]])

    assert all(same_bits(one, other) for one, other in zip(run(), run(), strict=True))
