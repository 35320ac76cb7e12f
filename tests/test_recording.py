"""Replaying a recorded step gives the bits of the step itself."""

import pytest
import torch
from games import GAMES, Adaptive, normal, same_bits

import gan_influence as gi
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
