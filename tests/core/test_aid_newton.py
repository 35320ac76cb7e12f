"""Newton's steps before AID: what dense matrices give, how near they come to the equilibrium, and where they fail."""

import copy
import dataclasses

import numpy as np
import pytest
import torch
from support.games import (
    GAMES,
    EpochBatches,
    dense_aid,
    dense_limit,
    field,
    jacobian,
    lqgan,
    metric_gradient,
    mlp,
    normal,
    relative_error,
    removal_steps,
    same_bits,
)
from torch import nn

import gan_influence as gi
from gan_influence.adjoint import FieldGraph
from gan_influence.curvature import ForwardGraph
from verification import dense_lqgan as dense

each_game = pytest.mark.parametrize("make", GAMES.values(), ids=GAMES)
each_solver = pytest.mark.parametrize("options", [{"terms": 9}, {"solver": "gmres"}], ids=["neumann", "gmres"])


def twin(problem):
    """The same LQGAN in NumPy."""
    rows, latents = problem.data.numpy().ravel(), problem.schedule(0).latents.numpy().ravel()
    return dense.LQGAN(rows, latents, eta=problem.rates[0], l2=problem.l2)


def moved(game, theta, steps):
    """``theta <- theta - J^-1 v`` with the twin's matrices."""
    theta = theta.numpy()
    for _ in range(steps):
        theta = theta - np.linalg.solve(game.jacobian(theta), game.velocity(theta))
    return torch.from_numpy(theta)


def stepped(problem, theta, weights=None, decay=0.0):
    """The same with autograd's, for any game with one batch."""
    weights = problem.ones if weights is None else weights
    v = field(problem, theta, weights).detach() + decay * theta
    return theta - torch.linalg.solve(jacobian(problem, theta, weights) + decay * torch.eye(len(theta)).double(), v)


def table_v(seed, rows=1000):
    """TNNLS Table V: rows of N(1, 1), no regularisation, a start from N(0, 1); at ten times its learning rate."""
    generator, discriminator = gi.models.lqgan(seed=seed)
    return lqgan(
        generator=generator,
        discriminator=discriminator,
        data=normal(seed, rows, 1, mean=1.0),
        schedule=gi.FullBatch(normal(100 + seed, rows, 1)),
    )


@pytest.mark.parametrize(("seed", "l2"), [(1, 0.0), (3, 0.2)])
def test_scores_are_those_of_the_dense_twin_after_its_own_newton_steps(seed, l2):
    problem = table_v(seed, rows=40).but(l2=(l2, l2))
    trace, game = problem.train(400), twin(problem)
    for newton in range(4):
        there = moved(game, trace.theta(), newton)
        slope = metric_gradient(problem, there).numpy()
        limit = gi.aid(trace, problem.metric(), solver="gmres", newton=newton)
        assert relative_error(limit, torch.from_numpy(dense.aid_limit(game, there.numpy()) @ slope)) < 1e-10
        series = gi.aid(trace, problem.metric(), terms=50, newton=newton)
        assert relative_error(series, torch.from_numpy(dense.aid(game, there.numpy(), 50) @ slope)) < 1e-10


@pytest.mark.parametrize("seed", [0, 1, 2, 3])
def test_a_step_brings_table_vs_scores_ten_times_as_near_to_the_equilibriums(seed):
    problem = table_v(seed)
    trace, game = problem.train(300), twin(problem)
    equilibrium = game.equilibrium(trace.theta().numpy())
    slope = metric_gradient(problem, torch.from_numpy(equilibrium)).numpy()
    derivative = torch.from_numpy(dense.aid_limit(game, equilibrium) @ slope)
    errors = [
        relative_error(gi.aid(trace, problem.metric(), solver="gmres", newton=newton), derivative)
        for newton in range(3)
    ]
    assert errors[0] > 5e-3
    assert errors[1] < errors[0] / 10
    assert errors[2] < errors[1] / 50


def test_a_step_brings_scores_nearer_to_removals_at_the_equilibrium_not_to_retrainings_that_end_before_it():
    problem = table_v(0)
    trace, game, rows = problem.train(300), twin(problem), list(range(0, 1000, 100))
    equilibrium = game.equilibrium(trace.theta().numpy())
    without = np.stack([game.equilibrium(equilibrium, weights) for weights in game.without(rows)])

    def value(theta):
        players = gi.Players(trace.game, torch.from_numpy(theta))
        return problem.metric().value(players).detach()

    removals = torch.stack([value(theta) - value(equilibrium) for theta in without])
    retrainings = gi.counterfactual(trace, problem.metric(), [[row] for row in rows])
    before, after = (gi.aid(trace, problem.metric(), solver="gmres", newton=k)[rows] for k in (0, 1))
    assert relative_error(before, removals) > 0.04
    assert relative_error(after, removals) < 0.004
    assert 0.9 < relative_error(after, retrainings) / relative_error(before, retrainings) < 1.1


@each_game
@pytest.mark.parametrize("loss", ["minimax", "non_saturating"])
def test_j_is_not_taken_for_symmetric_nor_the_game_for_zero_sum(make, loss):
    problem = make(l2=(0.3, 0.2), loss=loss, rates=(0.1, 0.06))
    trace = problem.train(200)
    there = stepped(problem, stepped(problem, trace.theta()))
    J = jacobian(problem, trace.theta(), problem.ones)
    assert (J - J.T).norm() > 0.2 * J.norm()
    limit = gi.aid(trace, problem.metric(), solver="gmres", newton=2, damping=0.4)
    assert relative_error(limit, dense_limit(problem, there, 0.4)) < 1e-9  # damping is AID's, not the steps'
    series = gi.aid(trace, problem.metric(), terms=9, newton=2, damping=0.4)
    assert relative_error(series, dense_aid(problem, there, 9, 0.4)) < 1e-9
    assert relative_error(series, dense_aid(problem, trace.theta(), 9, 0.4)) > 1e-6


@each_solver
def test_at_equals_each_stopping_time_alone(options):
    problem = mlp(l2=(0.3, 0.2))
    trace, stops = problem.train(60), [50, 60, 40]
    scores = gi.aid(trace, problem.metric(), at=stops, newton=1, **options)
    expected = dense_limit if "solver" in options else lambda problem, theta: dense_aid(problem, theta, 9)
    for one, stop in zip(scores, stops, strict=True):
        assert relative_error(one, expected(problem, stepped(problem, trace.theta(stop)))) < 1e-9


def test_removed_rows_have_no_part_in_the_field():
    problem, removed = lqgan(l2=(0.3, 0.2)), [3, 8]
    trace = gi.retrain(problem.train(100), removed)
    there = stepped(problem, trace.theta(), trace.weights)
    Z = problem.eta[:, None] * jacobian(problem, there, trace.weights)
    expected = metric_gradient(problem, there) @ torch.linalg.solve(Z, removal_steps(problem, there, trace.weights))
    scores = gi.aid(trace, problem.metric(), solver="gmres", newton=1)
    assert scores[removed].eq(0).all()
    assert relative_error(scores, expected) < 1e-9


def test_weight_decay_moves_the_equilibrium_as_l2_does():
    problem = mlp()
    decayed = problem.train(60, optimizer=(gi.SGD(0.1, weight_decay=0.3), gi.SGD(0.1, weight_decay=0.7)))
    regularised = problem.but(l2=(0.3, 0.7)).train(60)
    one, other = (gi.aid(trace, problem.metric(), terms=9, newton=1) for trace in (decayed, regularised))
    assert relative_error(one, other) < 1e-9
    assert relative_error(one, gi.aid(decayed, problem.metric(), terms=9)) > 1e-6


def test_the_field_of_minibatches_is_the_mean_over_an_epoch():
    problem = mlp(l2=(0.3, 0.2))
    problem = problem.but(schedule=EpochBatches(14, 5, (2,), seed=3))
    trace = problem.train(60)
    theta, shares = trace.theta(), dict(zip(range(60, 63), (5 / 14, 5 / 14, 4 / 14), strict=True))

    def mean(of_step, theta):
        return sum(share * of_step(problem, theta, problem.ones, t).detach() for t, share in shares.items())

    there = theta - torch.linalg.solve(mean(jacobian, theta), mean(field, theta))
    whole = problem.but(schedule=gi.FullBatch(normal(0, 10, 2)))
    changes = torch.linalg.solve(
        problem.eta[:, None] * mean(jacobian, there), removal_steps(whole, there, problem.ones)
    )
    scores = gi.aid(trace, problem.metric(), solver="gmres", newton=1)
    assert relative_error(scores, metric_gradient(problem, there) @ changes) < 1e-9


def test_the_metric_looks_where_the_steps_lead_whether_or_not_the_generator_is_averaged():
    problem = lqgan(l2=(0.3, 0.2))
    trace, averaged = problem.train(60), problem.train(60, ema_decay=0.95)
    one, other = (gi.aid(run, problem.metric(), solver="gmres", newton=1) for run in (trace, averaged))
    assert same_bits(one, other)
    before = gi.aid(averaged, problem.metric(), solver="gmres")
    assert relative_error(before, gi.aid(trace, problem.metric(), solver="gmres")) > 0.01


def test_a_run_at_its_equilibrium_stays_there():
    problem = lqgan(l2=(0.5, 0.5))
    trace = problem.train(2000)
    scores = gi.aid(trace, problem.metric(), solver="gmres", newton=8)
    assert relative_error(scores, gi.aid(trace, problem.metric(), solver="gmres")) < 1e-10


@each_solver
def test_a_one_player_run_stopped_early_gets_the_influence_function_of_the_optimum(options):
    inputs, targets = normal(0, 40, 5), torch.arange(40) % 3
    metric = gi.metrics.AverageLoss(normal(1, 15, 5), torch.arange(15) % 3)
    torch.manual_seed(0)
    game = gi.Game(None, nn.Linear(5, 3).double(), "cross_entropy", l2=0.05)
    short, long = (gi.train(game, (inputs, targets), gi.FullBatch(), steps, gi.SGD(0.5)) for steps in (30, 1000))
    optimal = gi.aid(long, metric, **options)
    assert relative_error(gi.aid(short, metric, **options), optimal) > 1e-3
    assert relative_error(gi.aid(short, metric, newton=4, **options), optimal) < 1e-9


def test_a_run_too_far_from_an_equilibrium_says_so_with_both_norms():
    problem = table_v(0, rows=40)
    trace = problem.train(10)
    game, theta = twin(problem), trace.theta()
    before, after = (np.linalg.norm(game.velocity(moved(game, theta, k).numpy())) for k in (0, 1))
    assert after > before
    message = rf"too far from an equilibrium at step 10: Newton step 1 takes \|v\| from {before:.2g} to {after:.2g}\."
    with pytest.raises(gi.ConvergenceError, match=f"{message} Train longer, .*gi.itd"):
        gi.aid(trace, problem.metric(), newton=1)


@each_solver
def test_a_field_without_curvature_is_told_that_gmres_fails(options):
    """``v = -psi``, whatever phi is."""
    generator, discriminator = mlp().generator[0], nn.Linear(3, 1).double().requires_grad_(False)
    game = gi.Game(generator, discriminator, loss="wasserstein")
    trace = gi.train(game, normal(1, 14, 3), gi.FullBatch(normal(2, 10, 2)), 5, gi.SGD(0.1))
    metric = gi.metrics.AverageLogLikelihood(normal(3, 9, 3), normal(4, 11, 2), bandwidth=0.8)
    with pytest.raises(
        gi.ConvergenceError,
        match=r"GMRES left .* after 1000 products in Newton step 1 at step 5: .*give both players l2, or leave newton",
    ):
        gi.aid(trace, metric, newton=1, **options)


@pytest.mark.parametrize("newton", [-1, 1.0, 0.5, True, None, "1", [1]])
def test_newton_must_be_a_whole_number_of_steps(newton):
    problem = lqgan()
    with pytest.raises(ValueError, match=r"newton must be a whole number of steps >= 0, got "):
        gi.aid(problem.train(2), problem.metric(), newton=newton)


@each_game
@pytest.mark.parametrize("loss", ["minimax", "non_saturating", "wasserstein"])
def test_forward_products_are_those_with_the_dense_matrix(make, loss):
    problem = make(loss=loss)  # with wasserstein and no l2 blocks of J are zero
    theta, weights = problem.start(), normal(8, len(problem.data)).abs()
    graph = ForwardGraph(FieldGraph(problem.game(), theta, problem.inputs(weights)))
    J = jacobian(problem, theta, weights)
    with torch.no_grad():
        columns = torch.stack([graph.product(unit) for unit in torch.eye(len(theta)).double()], dim=1)
    torch.testing.assert_close(columns, J, rtol=1e-11, atol=1e-14)


@pytest.mark.bits
@pytest.mark.parametrize("schedule", [None, EpochBatches(14, 5, (2,), seed=3)], ids=["full-batch", "minibatches"])
def test_recorded_products_have_the_bits_of_the_eager_ones(monkeypatch, schedule):
    problem = mlp(l2=(0.3, 0.2))
    trace = problem.but(schedule=schedule or problem.schedule).train(60)

    def scores():
        return gi.aid(copy.copy(trace), problem.metric(), terms=2, newton=1)

    monkeypatch.setattr("gan_influence.replay.recorded._EAGER_CALLS", 2)
    recorded = scores()
    monkeypatch.setattr("gan_influence.replay.recorded._EAGER_CALLS", 10**9)
    assert same_bits(recorded, scores())


def test_single_precision_scores_agree_to_single_precision():
    problem = mlp(l2=(0.3, 0.2))
    players = [copy.deepcopy(module).float() for module in (problem.generator, problem.discriminator)]
    metric = gi.metrics.AverageLogLikelihood(problem.reference.float(), problem.fresh.float(), bandwidth=0.8)
    schedule = gi.FullBatch(problem.schedule(0).latents.float())
    single = gi.train(gi.Game(*players, l2=problem.l2), problem.data.float(), schedule, 60, gi.SGD(0.1))
    expected = gi.aid(problem.train(60), problem.metric(), solver="gmres", newton=3)
    scores = gi.aid(single, metric, solver="gmres", newton=3)
    assert scores.dtype == torch.float32
    assert relative_error(scores.double(), expected) < 1e-3


@pytest.mark.bits
def test_no_steps_are_the_default():
    problem = mlp(l2=(0.3, 0.2))
    trace = problem.train(30)
    for options in ({"terms": [2, 20]}, {"solver": "gmres"}):
        assert same_bits(
            gi.aid(trace, problem.metric(), newton=0, **options), gi.aid(trace, problem.metric(), **options)
        )


def test_a_schedule_that_ends_with_the_run_is_asked_to_go_on():
    problem = lqgan()
    trace = problem.train(5)
    ended = dataclasses.replace(trace, schedule=[problem.schedule(0)].__getitem__)
    with pytest.raises(ValueError, match=r"no batch of step 5"):
        gi.aid(ended, problem.metric(), terms=1, newton=1)
