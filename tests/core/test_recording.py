"""Replaying a recorded step gives the bits of the step itself."""

import copy
import gc
import pickle
import weakref
from contextlib import nullcontext
from dataclasses import replace

import pytest
import torch
from support.games import GAMES, Adaptive, minibatch_mlp, normal, same_bits

import gan_influence as gi
from gan_influence import adjoint, step
from gan_influence.replay import recorded as recording
from gan_influence.replay.cuda import Graph
from gan_influence.replay.graph import traced
from gan_influence.replay.recorded import Recorded, RecordedLinearisation
from gan_influence.updates import Updates

CALLS = 80  # more than the 64 that are made before recording


def assert_replays_equal(function, *make_inputs, calls=CALLS):
    recorded = Recorded(function)
    for k in range(calls):
        inputs = [make(k) for make in make_inputs]
        assert same_bits(recorded(*inputs).detach(), function(*inputs).detach()), f"call {k}"


def is_replayed(recorded):
    replays = recorded._replays._recorded.values()
    return bool(replays) and all(replay is not None and not replay._is_given_up for replay in replays)


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
    monkeypatch.setattr("gan_influence.replay.recorded._EAGER_CALLS", 10**9)
    for one, other in zip(recorded, run(), strict=True):
        assert same_bits(one, other)


def test_the_time_of_a_step_is_an_input_of_its_recording(monkeypatch):
    problem = GAMES["lqgan"]()
    recorded = problem.train(150, optimizer=Adaptive(0.01)).states
    monkeypatch.setattr("gan_influence.replay.recorded._EAGER_CALLS", 10**9)
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
    for k in range(63):
        recorded(torch.full((3,), float(k)))
    assert len(called) == before + 6  # replays 1, 2, 4 ... 32, compared


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


def test_what_reads_memory_that_the_cotangent_is_written_into_waits_for_it():
    """As in a pull-back that adds up overlapping windows in place: its zeros do not depend on the cotangent."""

    def linearise(x):
        def pull_back(cotangent):
            zeros = torch.zeros_like(x)
            zeros[1:] += cotangent[:-1]
            zeros.select(0, 0).add_(cotangent[0])
            return zeros * x.exp(), x.exp()

        return x.exp(), pull_back

    recorded = RecordedLinearisation(linearise, record_after=2)
    for seed in range(5):
        x, cotangent = torch.randn(2, 4, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
        value, pull_back = recorded(x, cotangent_shape=cotangent.shape)
        expected, expected_pull_back = linearise(x)
        assert torch.equal(value, expected)
        for one, other in zip(pull_back(cotangent), expected_pull_back(cotangent), strict=True):
            assert torch.equal(one, other)
    assert is_replayed(recorded)


def test_a_pull_back_alone_leaves_out_what_only_the_value_needs():

    def linearise(x):
        return x.log1p().sum(), lambda cotangent: (cotangent * x.exp(),)

    recorded = RecordedLinearisation(linearise, record_after=2)
    for seed in range(5):
        x, cotangent = torch.rand(2, 4, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
        (found,) = recorded.pull_back(x, cotangent_shape=cotangent.shape)(cotangent)
        assert torch.equal(found, cotangent * x.exp())
        value, pull_back = recorded(x, cotangent_shape=cotangent.shape)
        assert torch.equal(value, x.log1p().sum())
        assert torch.equal(pull_back(cotangent)[0], found)
    codes = [replay.forward.__self__.code for replay in recorded._replays._recorded.values()]
    assert ["log1p" in code for code in codes] == [False, True]


def test_a_cuda_graph_holds_all_memory_that_it_works_in(monkeypatch):
    """Where the constants of a replay were freed, a graph would read whatever lies there next."""
    for name in ("CUDAGraph", "Stream"):
        monkeypatch.setattr(torch.cuda, name, lambda: None)
    for name in ("graph", "device"):
        monkeypatch.setattr(torch.cuda, name, lambda *_, **__: nullcontext())
    monkeypatch.setattr(torch.cuda, "synchronize", lambda: None)
    constant, given = torch.ones(3), torch.zeros(3)
    module = traced(lambda x: x + constant.exp(), given)
    constants = [weakref.ref(buffer) for buffer in module.buffers()]
    graph = Graph(module.forward, (given,))
    del module
    gc.collect()
    assert constants
    assert all(constant() is not None for constant in constants)
    assert graph.inputs[0].data_ptr() != given.data_ptr()


def test_a_recording_holds_for_one_layout_and_type():
    """What lies elsewhere in memory is called as it is, until that is recorded too: its operations differ."""

    def flat(x):
        return x.contiguous().as_strided((6,), (1,)) * torch.arange(6)

    recorded = Recorded(flat, record_after=2)
    x = normal(0, 2, 3)
    for of in (x, x.T.contiguous().T, x.float(), x.T.contiguous().T.float()):
        for _ in range(3):
            assert torch.equal(recorded(of), flat(of))
    assert len(recorded._replays._recorded) == 4


def test_a_cotangent_in_another_layout_is_pulled_back_all_the_same():
    recorded = RecordedLinearisation(
        lambda x: (x.sum(), lambda c: (x * c.contiguous().as_strided((6,), (1,)).view(2, 3),)), record_after=2
    )
    x, c = normal(0, 2, 3), normal(1, 2, 3)
    for cotangent in (c, c, c, c.T.contiguous().T):
        (found,) = recorded.pull_back(x, cotangent_shape=c.shape)(cotangent)
        assert torch.equal(found, x * c)


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

    monkeypatch.setattr(step, "step", noted("step", step.step))
    monkeypatch.setattr(adjoint, "linearise", noted("linearise", adjoint.linearise))
    return called


def test_retrainings_and_sweeps_use_a_runs_recordings_from_their_first_step(eager):
    problem = GAMES["mlp"](rates=(0.02, 0.02))
    trace = problem.train(100)
    assert 64 <= len(eager) < 75
    eager.clear()
    retrained = gi.retrain(gi.retrain(trace, [1]), [2], last=50)
    assert eager == ["step"] * 2  # replays 64 and 128, compared
    eager.clear()
    gi.itd(trace, problem.metric())
    assert 64 <= len(eager) < 75
    eager.clear()
    gi.itd(retrained, problem.metric())
    gi.itd(trace, gi.metrics.DiscriminatorLoss(problem.data, problem.fresh), last=30)
    assert eager == ["linearise"]  # replay 64, compared


def test_large_models_use_a_runs_recordings(eager, monkeypatch):
    problem = GAMES["mlp"](rates=(0.02, 0.02))
    trace = problem.train(70)
    eager.clear()
    monkeypatch.setitem(gi.counterfactual.__globals__, "_LARGE", 0)
    gi.counterfactual(trace, problem.metric(), [[1], [2]])
    assert eager == ["step"] * 5  # replays 8, 16, 32, 64 and 128, compared


STEPS = 5


@pytest.fixture
def recorded_run(monkeypatch):
    """A run whose steps and linearisations are recorded. Nothing is recorded after it."""
    monkeypatch.setattr(recording, "_EAGER_CALLS", 3)
    problem = GAMES["lqgan"]()
    trace = problem.train(STEPS)
    gi.itd(trace, problem.metric())
    monkeypatch.setattr(recording, "_EAGER_CALLS", 10**9)
    return trace


def assert_same_but_for_its_recordings(trace, fresh):
    metric = GAMES["lqgan"]().metric()
    assert same_bits(gi.itd(trace, metric), gi.itd(fresh, metric))
    assert same_bits(gi.retrain(trace, [1, 5]).states, gi.retrain(fresh, [1, 5]).states)


def test_the_same_game_uses_a_runs_recordings(recorded_run, eager):
    fresh = GAMES["lqgan"]().train(STEPS)
    eager.clear()
    other = replace(recorded_run, weights=fresh.weights.clone())
    gi.itd(other, GAMES["lqgan"]().metric())
    gi.retrain(other, [1, 5])
    assert eager == ["step"]  # replay 4, compared
    assert_same_but_for_its_recordings(other, fresh)


@pytest.mark.parametrize("changes", [{"loss": "hinge"}, {"l2": (0.1, 0.5)}], ids=["loss", "l2"])
def test_another_game_does_not_use_a_runs_recordings(recorded_run, changes):
    fresh = GAMES["lqgan"](**changes).train(STEPS)
    other = replace(recorded_run, game=fresh.game, history=fresh.history)
    assert other.recorded is recorded_run.recorded
    assert_same_but_for_its_recordings(other, fresh)


def test_other_updates_do_not_use_a_runs_recordings(recorded_run):
    slower = gi.SGD(0.03)
    fresh = GAMES["lqgan"]().train(STEPS, optimizer=slower)
    other = replace(recorded_run, updates=Updates(slower, recorded_run.game), history=fresh.history)
    assert other.recorded is recorded_run.recorded
    assert_same_but_for_its_recordings(other, fresh)


def test_another_damping_does_not_use_a_runs_recordings(recorded_run):
    fresh, metric = GAMES["lqgan"]().train(STEPS), GAMES["lqgan"]().metric()
    assert same_bits(gi.itd(recorded_run, metric, damping=0.2), gi.itd(fresh, metric, damping=0.2))
    assert not same_bits(gi.itd(fresh, metric, damping=0.2), gi.itd(fresh, metric))


COPIES = {
    "copy": copy.copy,
    "deepcopy": copy.deepcopy,
    "pickle": lambda trace: pickle.loads(pickle.dumps(trace)),
}


@pytest.mark.parametrize("copied", COPIES.values(), ids=COPIES)
def test_a_trace_is_copied_without_its_recordings(recorded_run, copied):
    own = copied(recorded_run)
    assert recorded_run.recorded
    assert not own.recorded
    assert same_bits(own.states, recorded_run.states)
    assert_same_but_for_its_recordings(own, recorded_run)


def test_a_checkpointed_trace_is_pickled_with_what_it_holds():
    trace = minibatch_mlp().train(9, memory="checkpoint", ema_decay=0.9, optimizer=(gi.Adam(0.02), gi.SGD(0.1)))
    own = pickle.loads(pickle.dumps(trace))
    metric = minibatch_mlp().metric()
    assert same_bits(gi.itd(own, metric), gi.itd(trace, metric))
