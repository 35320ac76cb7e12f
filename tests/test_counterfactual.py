"""Retraining: batches of removals against one run after another."""

import pytest
import torch
from games import GAMES, EpochBatches, lqgan, mlp, relative_error, same_bits, unrolled

import gan_influence as gi

each_game = pytest.mark.parametrize("make", GAMES.values(), ids=GAMES)
REMOVALS = [[3], [11, 7], [0], list(range(10)), []]


def minibatches(problem):
    latent_shape = problem.schedule(0).latents.shape[1:]
    return problem.but(schedule=EpochBatches(len(problem.data), 5, latent_shape, seed=3))


def one_by_one(problem, trace, removals, **options):
    metric = problem.metric()
    before = metric(trace)
    return torch.stack([metric(gi.retrain(trace, removed, **options)) - before for removed in removals])


@each_game
@pytest.mark.parametrize("schedule", [lambda problem: problem, minibatches], ids=["full-batch", "minibatches"])
@pytest.mark.parametrize("last", [None, 0, 1, 7])
def test_counterfactual_equals_one_by_one_retraining(make, schedule, last):
    problem = schedule(make())
    trace = problem.train(12)
    truth = gi.counterfactual(trace, problem.metric(), REMOVALS, last=last)
    assert truth.shape == (5,)
    torch.testing.assert_close(truth, one_by_one(problem, trace, REMOVALS, last=last), rtol=0, atol=1e-12)
    assert (truth[:4].abs().max() > 1e-5) == (last not in (0, 1))
    assert truth[4] == 0


@each_game
def test_chunks_change_nothing(make):
    problem = make()
    trace = problem.train(12)
    whole = gi.counterfactual(trace, problem.metric(), REMOVALS)
    for chunk in (1, 2):
        chunked = gi.counterfactual(trace, problem.metric(), REMOVALS, chunk=chunk)
        torch.testing.assert_close(chunked, whole, rtol=0, atol=1e-13)


def test_removals_that_do_not_fit_in_memory_together_are_chunked(monkeypatch):
    problem = mlp()
    trace = problem.train(5)
    whole = gi.counterfactual(trace, problem.metric(), REMOVALS)
    monkeypatch.setattr("psutil.virtual_memory", lambda: type("Memory", (), {"available": 0}))
    torch.testing.assert_close(gi.counterfactual(trace, problem.metric(), REMOVALS), whole, rtol=0, atol=1e-13)


@each_game
def test_at_equals_separate_runs(make):
    problem, stops = make(), [12, 4, 0, 9]
    truth = gi.counterfactual(problem.train(15), problem.metric(), REMOVALS, at=stops, chunk=2)
    assert truth.shape == (4, 5)
    for row, stop in zip(truth, stops, strict=True):
        expected = one_by_one(problem, problem.train(stop), REMOVALS)
        torch.testing.assert_close(row, expected, rtol=0, atol=1e-12)


def test_no_removals_give_no_influence():
    problem = lqgan()
    trace = problem.train(3)
    assert gi.counterfactual(trace, problem.metric(), []).shape == (0,)
    assert gi.counterfactual(trace, problem.metric(), [], at=[1, 2]).shape == (2, 0)


@each_game
@pytest.mark.parametrize("schedule", [lambda problem: problem, minibatches], ids=["full-batch", "minibatches"])
def test_retraining_is_training_with_weight_zero_and_the_denominator_unchanged(make, schedule):
    problem, removed = schedule(make()), [2, 5]
    weights = problem.ones.index_fill(0, torch.tensor(removed), 0.0)
    retrained = gi.retrain(problem.train(8), removed)
    assert same_bits(retrained.states, problem.train(8, weights=weights).states)
    expected = torch.stack([theta.detach() for theta in unrolled(problem, weights, 8)])
    assert relative_error(retrained.states[:, 0], expected) < 1e-13


def test_rows_once_removed_stay_removed():
    trace = lqgan().train(8)
    assert same_bits(gi.retrain(gi.retrain(trace, [2]), [5]).states, gi.retrain(trace, [2, 5]).states)


def test_retraining_the_last_steps_starts_from_the_factual_state():
    problem = lqgan()
    trace = problem.train(9)
    retrained = gi.retrain(trace, [2], last=4)
    assert (retrained.first, retrained.steps, len(retrained.states)) == (5, 9, 5)
    assert same_bits(retrained.state(5), trace.state(5))
    assert not same_bits(retrained.state(6), trace.state(6))
    assert same_bits(gi.retrain(trace, [], last=4).state(9), trace.state(9))


def test_removing_a_row_whose_weight_is_zero_changes_nothing():
    problem = mlp()
    trace = gi.retrain(problem.train(12), [3])
    truth = gi.counterfactual(trace, problem.metric(), [[3], [4]])
    assert truth[0] == 0
    assert truth[1] != 0


def test_minibatch_training_equals_the_hand_written_loop():
    problem = minibatches(lqgan())
    sizes = {len(problem.schedule(t).indices) for t in range(12)}
    assert sizes == {5, 4}
    expected = torch.stack([theta.detach() for theta in unrolled(problem, problem.ones, 12)])
    assert relative_error(problem.train(12).states[:, 0], expected) < 1e-13


def test_removals_may_be_tensors_and_numpy_integers():
    problem = lqgan()
    trace = problem.train(5)
    expected = gi.counterfactual(trace, problem.metric(), [[3], [4]])
    assert same_bits(gi.counterfactual(trace, problem.metric(), torch.tensor([[3], [4]])), expected)
    assert same_bits(gi.counterfactual(trace, problem.metric(), list(torch.tensor([[3], [4]]).numpy())), expected)
