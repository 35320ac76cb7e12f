"""Retraining: batches of removals against one run after another."""

import sys

import pytest
import torch
from support.games import GAMES, EpochBatches, lqgan, minibatch_mlp, mlp, normal, relative_error, same_bits, unrolled
from torch import nn

import gan_influence as gi
from gan_influence.counterfactual import counterfactual_and_rounding, counterfactuals

each_game = pytest.mark.parametrize("make", GAMES.values(), ids=GAMES)
REMOVALS = [[3], [11, 7], [0], list(range(10)), []]


def minibatches(problem):
    latent_shape = problem.schedule(0).latents.shape[1:]
    return problem.but(schedule=EpochBatches(len(problem.data), 5, latent_shape, seed=3))


def one_by_one(problem, trace, removals, **options):
    metric = problem.metric()
    before = metric(trace)
    return torch.stack([metric(gi.retrain(trace, removed, **options)) - before for removed in removals])


@pytest.mark.bits
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


@pytest.mark.parametrize(("models", "most"), [(2.5, 1), (4, 3), (5, 4), (100, 99)])
@pytest.mark.parametrize("runs", [1, 2])
def test_on_a_cpu_as_many_models_are_trained_together_as_its_cache_holds(monkeypatch, models, most, runs):
    module, problem = sys.modules["gan_influence.counterfactual"], mlp()
    trace, metric, parted, sizes = problem.train(3), problem.metric(), [], []
    parts, retrain, state = module._parts, module._retrain_together, trace.state(0).moving
    whole = gi.counterfactual(trace, metric, REMOVALS)

    def recorded(runs, metrics, together, *rest):
        sizes.append(len(together))
        return retrain(runs, metrics, together, *rest)

    monkeypatch.setattr(module, "_retrain_together", recorded)
    monkeypatch.setattr(module, "_parts", lambda *of: parted.append(of[-1]) or parts(*of))
    monkeypatch.setattr(module, "_IN_CACHE", int(models * 4 * state.numel() * state.element_size()))
    chunked = counterfactuals([trace] * runs, [metric] * runs, [REMOVALS] * runs)
    assert parted == [max(most // runs, 1)]
    assert max(sizes) <= parted[0]
    assert sum(sizes) == 5
    torch.testing.assert_close(chunked, whole.expand(runs, -1), rtol=0, atol=1e-13)


def test_no_removals_give_no_influence():
    problem = lqgan()
    trace = problem.train(3)
    assert gi.counterfactual(trace, problem.metric(), []).shape == (0,)
    assert gi.counterfactual(trace, problem.metric(), [], at=[1, 2]).shape == (2, 0)


@pytest.mark.bits
@each_game
@pytest.mark.parametrize("schedule", [lambda problem: problem, minibatches], ids=["full-batch", "minibatches"])
def test_retraining_is_training_with_weight_zero_and_the_denominator_unchanged(make, schedule):
    problem, removed = schedule(make()), [2, 5]
    weights = problem.ones.index_fill(0, torch.tensor(removed), 0.0)
    retrained = gi.retrain(problem.train(8), removed)
    assert same_bits(retrained.states, problem.train(8, weights=weights).states)
    expected = torch.stack([theta.detach() for theta in unrolled(problem, weights, 8)])
    assert relative_error(retrained.states[:, 0], expected) < 1e-13


@pytest.mark.bits
def test_rows_once_removed_stay_removed():
    trace = lqgan().train(8)
    assert same_bits(gi.retrain(gi.retrain(trace, [2]), [5]).states, gi.retrain(trace, [2, 5]).states)


@pytest.mark.bits
def test_retraining_the_last_steps_starts_from_the_factual_state():
    problem = lqgan()
    trace = problem.train(9)
    retrained = gi.retrain(trace, [2], last=4)
    assert (retrained.first, retrained.steps, len(retrained.states)) == (5, 9, 5)
    assert same_bits(retrained.state(5), trace.state(5))
    assert not same_bits(retrained.state(6), trace.state(6))
    assert same_bits(gi.retrain(trace, [], last=4).state(9), trace.state(9))


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


# Several metrics off one retraining


def both_metrics(problem):
    """One sees the generator only, the other both players."""
    return [problem.metric(), gi.metrics.DiscriminatorLoss(problem.data, problem.fresh)]


@pytest.fixture(params=[False, True], ids=["together", "alone"])
def either_way(request, monkeypatch):
    if request.param:
        monkeypatch.setattr(sys.modules["gan_influence.counterfactual"], "_LARGE", 0)


@pytest.mark.bits
@pytest.mark.parametrize("options", [{}, {"last": 4}, {"at": [12, 4, 0, 9]}], ids=["all", "last", "at"])
def test_several_metrics_equal_one_after_another(options, either_way):
    problem = minibatch_mlp()
    trace, metrics = problem.train(12), both_metrics(problem)
    truth = gi.counterfactual(trace, metrics, REMOVALS, **options)
    assert truth.shape == (2, *([4] if "at" in options else []), 5)
    separate = [gi.counterfactual(trace, metric, REMOVALS, **options) for metric in metrics]
    assert same_bits(truth, torch.stack(separate))
    assert not torch.allclose(*truth)


def test_a_list_of_one_metric_keeps_its_dimension(either_way):
    problem = lqgan()
    trace = problem.train(4)
    truth = gi.counterfactual(trace, problem.metric(), REMOVALS)
    for metrics in ([problem.metric()], (problem.metric(),)):
        assert same_bits(gi.counterfactual(trace, metrics, REMOVALS), truth[None])


def test_several_metrics_of_several_runs_equal_one_run_after_another():
    problems = [lqgan(), lqgan(data=normal(9, 24, 1), reference=normal(8, 12, 1))]
    traces, metrics = [problem.train(6) for problem in problems], [both_metrics(problem) for problem in problems]
    removals = [[[1], [2, 3], []], [[4], [1], [7, 8]]]
    truth = counterfactuals(traces, metrics, removals, at=[6, 2])
    assert truth.shape == (2, 2, 2, 3)
    for run, own in enumerate(zip(traces, metrics, removals, strict=True)):
        torch.testing.assert_close(truth[run], gi.counterfactual(*own, at=[6, 2]), rtol=0, atol=1e-13)


@pytest.mark.parametrize("numbers", [(2, 1), (1, 2), (2,), (2, 2, 2)], ids=str)
def test_every_run_has_as_many_metrics(numbers):
    problem = lqgan()
    traces, metrics = [problem.train(2), problem.train(2)], [both_metrics(problem)[:count] for count in numbers]
    with pytest.raises(ValueError, match=r"each of 2 runs must have as many metrics, got \[" + str(numbers[0])):
        counterfactuals(traces, metrics, [[[1]], [[2]]])


# Large models on a CPU, one after another


@pytest.fixture
def alone(monkeypatch):
    """Every model counts as large. ``(removed rows, first step)`` of those that were retrained alone, in order."""
    module, retrained = sys.modules["gan_influence.counterfactual"], []
    retrain = module._retrain_alone

    def noted(*arguments):
        _, _, _, model, start, *_ = arguments
        retrained.append((model.without[0], start))
        return retrain(*arguments)

    monkeypatch.setattr(module, "_LARGE", 0)
    monkeypatch.setattr(module, "_retrain_alone", noted)
    return retrained


SETTINGS = {
    "sgd": {},
    "momentum": {"optimizer": gi.SGD(0.05, momentum=0.9)},
    "alternating-rmsprop": {"optimizer": gi.RMSProp(0.01), "update": "alternating"},
    "turns-adam-and-sgd": {"optimizer": (gi.Adam(0.02), gi.SGD(0.1)), "update": "turns"},
    "averaged": {"ema_decay": 0.9, "update": "alternating"},
    "checkpoints": {"memory": gi.Checkpoint(every=5)},
}
each_setting = pytest.mark.parametrize("settings", SETTINGS.values(), ids=SETTINGS)


@pytest.mark.bits
@each_setting
@pytest.mark.parametrize("last", [None, 0, 1, 7])
def test_large_models_have_the_bits_of_retraining_one_by_one(settings, last, alone):
    problem = minibatch_mlp()
    trace = problem.train(12, **settings)
    truth = gi.counterfactual(trace, problem.metric(), REMOVALS, last)
    assert sorted(rows for rows, _ in alone) == sorted(REMOVALS)
    assert same_bits(truth, one_by_one(problem, trace, REMOVALS, last=last))
    together = gi.counterfactual(trace, problem.metric(), REMOVALS, last, chunk=3)
    torch.testing.assert_close(truth, together, rtol=0, atol=1e-12)
    assert truth[4] == 0
    if last != 1:  # in one step no removal reaches the generator, but where it moves second
        assert (truth[:4].abs().max() > 1e-5) == (last != 0)


@pytest.mark.bits
@each_setting
def test_large_models_at_several_stops_have_the_bits_of_separate_runs(settings, alone):
    problem, stops = minibatch_mlp(), [12, 4, 0, 9, 4]
    trace = problem.train(12, **settings)
    truth = gi.counterfactual(trace, problem.metric(), REMOVALS, at=stops)
    assert len(alone) == len(REMOVALS)
    expected = torch.stack([one_by_one(problem, problem.train(stop, **settings), REMOVALS) for stop in stops])
    assert same_bits(truth, expected)


@pytest.mark.bits
def test_large_models_of_one_player_have_the_bits_of_retraining_one_by_one(alone):
    model = nn.Sequential(nn.Linear(2, 3), nn.Tanh(), nn.Linear(3, 1)).double()
    pairs = normal(1, 9, 2), normal(2, 9, 1)
    game, schedule = gi.Game(None, model, loss="squared_error", l2=0.1), gi.Minibatches(9, 4)
    trace = gi.train(game, pairs, schedule, 8, gi.SGD(0.1, momentum=0.5))
    metric = gi.metrics.AverageLoss(normal(3, 7, 2), normal(4, 7, 1))
    truth = gi.counterfactual(trace, metric, [[1], [2, 3], []])
    assert len(alone) == 3
    assert same_bits(
        truth, torch.stack([metric(gi.retrain(trace, rows)) for rows in ([1], [2, 3], [])]) - metric(trace)
    )
    together = gi.counterfactual(trace, metric, [[1], [2, 3], []], chunk=3)
    torch.testing.assert_close(truth, together, rtol=0, atol=1e-12)


def test_large_models_without_a_row_that_no_batch_uses_do_not_differ(alone):
    problem = minibatch_mlp()
    trace = problem.train(12)
    used = trace.schedule(11).indices.tolist()
    idle = sorted(set(range(14)).difference(used))
    truth = gi.counterfactual(trace, problem.metric(), [idle, used, idle[:1]], last=1)
    assert len(alone) == 3
    assert truth[[0, 2]].tolist() == [0, 0]
    assert not gi.counterfactual(trace, both_metrics(problem)[1], [idle], last=1).any()
    stops = gi.counterfactual(trace, problem.metric(), [idle[:1]], at=[0, 1, 2, 3])[:, 0]
    first = next(t for t in range(12) if idle[0] in trace.schedule(t).indices)
    assert (stops[: first + 1] == 0).all()


def test_large_models_are_retrained_from_the_first_batch_that_uses_a_removed_row_on(alone):
    problem = minibatch_mlp()
    trace = problem.train(12)
    gi.counterfactual(trace, problem.metric(), REMOVALS, last=10)
    for rows, start in alone:
        using = [t for t in range(2, 12) if not set(rows).isdisjoint(trace.schedule(t).indices.tolist())]
        assert start == min(using, default=12)
    assert len({start for _, start in alone}) > 2


def test_only_large_models_are_retrained_alone(alone, monkeypatch):
    problem = minibatch_mlp()
    trace = problem.train(3)
    gi.counterfactual(trace, problem.metric(), REMOVALS, chunk=2)
    counterfactuals([trace, trace], [problem.metric()] * 2, [REMOVALS] * 2)
    monkeypatch.setattr(sys.modules["gan_influence.counterfactual"], "_LARGE", 2**24)
    gi.counterfactual(trace, problem.metric(), REMOVALS)
    assert not alone


@pytest.mark.bits
def test_replicas_of_large_models_have_the_bits_of_runs_from_their_starts(alone):
    problem = minibatch_mlp()
    trace, metric = problem.train(12), problem.metric()
    signs = 1e3 * normal(0, 2, trace.game.size).sign()  # one unit in the last place could leave the metric as it is
    truth, rounding = counterfactual_and_rounding(trace, metric, REMOVALS, signs)
    assert len(alone) == len(REMOVALS) + 2
    assert same_bits(truth, one_by_one(problem, trace, REMOVALS))
    start = problem.start()
    for own, difference in zip(signs, rounding, strict=True):
        moved = minibatch_mlp()
        nn.utils.vector_to_parameters(
            start + own * (torch.finfo(torch.float64).eps / 2 * start),
            [*moved.generator.parameters(), *moved.discriminator.parameters()],
        )
        assert same_bits(difference, metric(moved.train(12)) - metric(trace))
    assert rounding.all()


def test_a_large_model_that_does_not_fit_in_memory_says_so(monkeypatch):
    module, problem = sys.modules["gan_influence.counterfactual"], lqgan()

    def full(*arguments):
        raise MemoryError("nothing left")

    monkeypatch.setattr(module, "_LARGE", 0)
    monkeypatch.setattr(module, "_retrain_alone", full)
    with pytest.raises(MemoryError, match=r"not even one model at a time .*nothing left"):
        gi.counterfactual(problem.train(2), problem.metric(), REMOVALS)


# Regularised kernels


def regularised(problem, l2_of, **options):
    game = gi.Game(problem.generator, problem.discriminator, loss=problem.loss, l2=(0.3, 0.2), l2_of=l2_of)
    return gi.train(game, problem.data, problem.schedule, 12, gi.SGD(0.1), **options)


def test_stacked_models_regularise_their_own_kernels():
    problem, truth = minibatch_mlp(), {}
    for l2_of in ("kernels", "all"):
        trace = regularised(problem, l2_of)
        truth[l2_of] = gi.counterfactual(trace, problem.metric(), REMOVALS)
        torch.testing.assert_close(truth[l2_of], one_by_one(problem, trace, REMOVALS), rtol=0, atol=1e-12)
    assert not torch.allclose(truth["kernels"], truth["all"])


def test_runs_that_regularise_other_parameters_are_retrained_apart():
    problem = minibatch_mlp()
    traces = [regularised(problem, l2_of) for l2_of in ("all", "kernels")]
    with pytest.raises(ValueError, match=r"traces\[1\] differs from traces\[0\] in l2_of: retrain them apart"):
        counterfactuals(traces, [problem.metric()] * 2, [[[1]]] * 2)


@pytest.mark.bits
@each_game
def test_what_makes_no_difference_is_zero_to_the_bit_however_models_are_put_together(make):
    problem = minibatches(make())
    trace = gi.retrain(problem.train(12), [3])
    first = next(t for t in range(12) if 0 in trace.schedule(t).indices)
    stops = [first, first + 1, 12]
    truth = gi.counterfactual(trace, problem.metric(), [[], [0], [3], [1, 2], [3, 0]], at=stops)
    assert (truth[:, [0, 2]] == 0).all()  # nothing, and a row that is gone already
    assert (truth[0, [1, 4]] == 0).all()  # before its first use
    assert (truth[2, [1, 3, 4]] != 0).all()
    assert (gi.counterfactual(trace, problem.metric(), [[], [1, 2]], chunk=1)[0]) == 0
