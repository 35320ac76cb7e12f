"""Replaying a recorded step gives the bits of the step itself."""

import copy
import pickle
from dataclasses import replace

import pytest
import torch
from games import GAMES, Adaptive, minibatch_mlp, normal, same_bits

import gan_influence as gi
from gan_influence import adjoint, recording, steps
from gan_influence.optim import Updates
from gan_influence.recording import Recorded

CALLS = 80  # more than the 64 that are made before recording


def assert_replays_equal(function, *make_inputs, calls=CALLS):
    recorded = Recorded(function)
    for k in range(calls):
        inputs = [make(k) for make in make_inputs]
        assert same_bits(recorded(*inputs).detach(), function(*inputs).detach()), f"call {k}"


def call_often(recorded):
    for k in range(CALLS):
        recorded(torch.tensor([float(k % 2) - 0.5]))


@pytest.mark.parametrize("make", GAMES.values(), ids=GAMES)
def test_long_runs_and_sweeps_have_the_bits_of_the_eager_ones(make, monkeypatch):
    def run():
        problem = make(rates=(0.02, 0.02), l2=(0.1, 0.1))
        trace = problem.train(CALLS)
        scores = gi.itd(trace, problem.metric(), damping=0.1), gi.aid(trace, problem.metric(), terms=CALLS)
        return trace.states, *scores, gi.counterfactual(trace, problem.metric(), [[1], [2, 3]])

    recorded = run()
    monkeypatch.setattr("gan_influence.recording._EAGER_CALLS", 10**9)
    for one, other in zip(recorded, run(), strict=True):
        assert same_bits(one, other)


def test_the_time_of_a_step_is_an_input_of_its_recording(monkeypatch):
    problem = GAMES["lqgan"]()
    recorded = problem.train(150, optimizer=Adaptive(0.01)).states
    monkeypatch.setattr("gan_influence.recording._EAGER_CALLS", 10**9)
    assert same_bits(recorded, problem.train(150, optimizer=Adaptive(0.01)).states)


def test_a_recorded_function_is_called_no_more():
    called = []

    def function(x):
        called.append(1)
        return 2 * x.exp()

    recorded = Recorded(function)
    for k in range(64):
        recorded(torch.full((3,), float(k)))
    before = len(called)
    for k in range(30):
        recorded(torch.full((3,), float(k)))
    assert len(called) <= before + 1


def test_derivatives_are_replayed():
    def gradient(x):
        x = x.detach().requires_grad_()
        with torch.enable_grad():
            value = (x.sin() @ x.tanh()).exp()
        return torch.autograd.grad(value, x)[0]

    assert_replays_equal(gradient, lambda k: normal(k, 5))


def test_every_shape_has_a_recording_of_its_own():
    assert_replays_equal(lambda x: (x * len(x)).sum(0), lambda k: normal(k, 3 + k % 2, 2), calls=180)


def test_several_outputs_are_replayed():
    recorded = Recorded(lambda x, y: (x + y, x @ y))
    for k in range(CALLS):
        x, y = normal(k, 3, 3), normal(k + 1, 3, 3)
        total, product = recorded(x, y)
        assert same_bits(total, x + y)
        assert same_bits(product, x @ y)


def test_what_a_function_closes_over_is_a_constant():
    table = normal(0, 4, 4)
    assert_replays_equal(lambda x: (table.T @ table).tanh() @ x + table.sum(0), lambda k: normal(k, 4))


def test_operations_in_place_are_replayed_without_touching_the_arguments():
    def function(x):
        y = x.clone()
        y[1:] *= 3
        return y.add_(1)

    assert_replays_equal(function, lambda k: normal(k, 4))


def test_a_branch_on_values_is_called_as_it_is_with_a_warning():
    recorded = Recorded(lambda x: 2 * x if x[0] > 0 else 3 * x)
    with pytest.warns(UserWarning, match="called as it is"):
        call_often(recorded)
    assert recorded(torch.tensor([-1.0])) == -3
    assert recorded(torch.tensor([1.0])) == 2


def test_values_that_python_reads_are_not_frozen_into_the_recording():
    recorded = Recorded(lambda x: 2 * x if x.tolist()[0] > 0 else 3 * x)
    with pytest.warns(UserWarning, match="called as it is"):
        call_often(recorded)
    assert recorded(torch.tensor([-1.0])) == -3
    assert recorded(torch.tensor([1.0])) == 2


def test_a_scalar_is_replayed():
    assert_replays_equal(lambda x: x.exp().sum(), lambda k: normal(k, 4))


def test_what_reads_memory_that_the_cotangent_is_written_into_waits_for_it(monkeypatch):
    """As in a pull-back that adds up overlapping windows in place: its zeros do not depend on the cotangent."""
    monkeypatch.setattr(recording, "_EAGER_CALLS", 2)

    def linearise(x):
        def pull_back(cotangent):
            zeros = torch.zeros_like(x)
            zeros[1:] += cotangent[:-1]
            zeros.select(0, 0).add_(cotangent[0])
            return zeros * x.exp(), x.exp()

        return x.exp(), pull_back

    recorded = recording.RecordedLinearisation(linearise)
    for seed in range(5):
        x, cotangent = torch.randn(2, 4, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
        value, pull_back = recorded(x, cotangent_shape=cotangent.shape)
        expected, expected_pull_back = linearise(x)
        assert torch.equal(value, expected)
        for one, other in zip(pull_back(cotangent), expected_pull_back(cotangent), strict=True):
            assert torch.equal(one, other)
    assert all(replay is not None for replay in recorded._replays.values())


# Recordings of a run, shared with its retrainings


@pytest.fixture
def eager(monkeypatch):
    """The steps and linearisations that were called as they are, since the list was last cleared."""
    called = []

    def noted(name, function):
        def call(*arguments):
            called.append(name)
            return function(*arguments)

        return call

    monkeypatch.setattr(steps, "step", noted("step", steps.step))
    monkeypatch.setattr(adjoint, "linearise", noted("linearise", adjoint.linearise))
    return called


def test_retrainings_and_sweeps_use_a_runs_recordings_from_their_first_step(eager):
    problem = GAMES["mlp"](rates=(0.02, 0.02))
    trace = problem.train(100)
    assert 64 <= len(eager) < 70
    eager.clear()
    retrained = gi.retrain(gi.retrain(trace, [1]), [2], last=50)
    assert not eager
    gi.itd(trace, problem.metric())
    assert 64 <= len(eager) < 70
    eager.clear()
    gi.itd(retrained, problem.metric())
    gi.itd(trace, gi.metrics.DiscriminatorLoss(problem.data, problem.fresh), last=30)
    assert not eager


def test_large_models_use_a_runs_recordings(eager, monkeypatch):
    problem = GAMES["mlp"](rates=(0.02, 0.02))
    trace = problem.train(70)
    eager.clear()
    monkeypatch.setitem(gi.counterfactual.__globals__, "_LARGE", 0)
    gi.counterfactual(trace, problem.metric(), [[1], [2]])
    assert not eager


def scores_and_retraining(trace, metric):
    return gi.itd(trace, metric), gi.itd(trace, metric, damping=0.2), gi.retrain(trace, [1, 5]).states


def assert_same_but_for_its_recordings(trace, fresh, metric):
    for one, other in zip(scores_and_retraining(trace, metric), scores_and_retraining(fresh, metric), strict=True):
        assert same_bits(one, other)


@pytest.mark.parametrize("changes", [{"loss": "hinge"}, {"l2": (0.1, 0.5)}], ids=["loss", "l2"])
def test_another_game_does_not_use_a_runs_recordings(changes, monkeypatch):
    monkeypatch.setattr(recording, "_EAGER_CALLS", 3)
    problem = minibatch_mlp()
    trace, fresh = problem.train(9), problem.but(**changes).train(9)
    scores_and_retraining(trace, problem.metric())
    other = replace(trace, game=fresh.game, history=fresh.history)
    assert other.recorded is trace.recorded
    assert_same_but_for_its_recordings(other, fresh, problem.metric())


def test_other_updates_do_not_use_a_runs_recordings(monkeypatch):
    monkeypatch.setattr(recording, "_EAGER_CALLS", 3)
    problem, slower = minibatch_mlp(), gi.SGD(0.03)
    trace, fresh = problem.train(9), problem.train(9, optimizer=slower)
    scores_and_retraining(trace, problem.metric())
    other = replace(trace, updates=Updates(slower, trace.game), history=fresh.history)
    assert other.recorded is trace.recorded
    assert_same_but_for_its_recordings(other, fresh, problem.metric())


COPIES = {
    "copy": copy.copy,
    "deepcopy": copy.deepcopy,
    "pickle": lambda trace: pickle.loads(pickle.dumps(trace)),
}


@pytest.mark.parametrize("copied", COPIES.values(), ids=COPIES)
@pytest.mark.parametrize("loss", ["minimax", "hinge"])
def test_a_trace_is_copied_without_its_recordings(copied, loss, monkeypatch):
    monkeypatch.setattr(recording, "_EAGER_CALLS", 3)
    problem = minibatch_mlp(loss=loss)
    trace = problem.train(9, memory="checkpoint")
    scores_and_retraining(trace, problem.metric())
    own = copied(trace)
    assert trace.recorded
    assert not own.recorded
    assert same_bits(own.state(), trace.state())
    assert_same_but_for_its_recordings(own, trace, problem.metric())
