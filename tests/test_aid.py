"""AID against eq. 12 and 14 with dense matrices (TNNLS III-B2, IV-C2, IV-C4)."""

import dataclasses

import pytest
import torch
from games import COSTS, GAMES, EpochBatches, dense_aid, dense_limit, jacobian, lqgan, mlp, relative_error

import gan_influence as gi

each_game = pytest.mark.parametrize("make", GAMES.values(), ids=GAMES)
each_rates = pytest.mark.parametrize("rates", [(0.1, 0.1), (0.1, 0.03)], ids=["one-rate", "two-rates"])


@each_game
@each_rates
@pytest.mark.parametrize("terms", [2, 3, 10])
@pytest.mark.parametrize("damping", [0.0, 0.5])
def test_aid_sums_exactly_m_terms_of_eq_14(make, rates, terms, damping):
    problem = make(rates=rates)
    trace = problem.train(5)
    scores = gi.aid(trace, problem.metric(), terms=terms, damping=damping)
    assert relative_error(scores, dense_aid(problem, trace.theta(), terms, damping)) < 1e-12
    for wrong in (terms - 1, terms + 1):
        assert relative_error(scores, dense_aid(problem, trace.theta(), wrong, damping)) > 1e-2


def test_the_first_term_alone_scores_zero_because_the_generator_never_sees_the_rows():
    problem = lqgan()
    assert gi.aid(problem.train(5), problem.metric(), terms=1).eq(0).all()


class DiscriminatorToo:
    """A metric of both players, whose first term is not zero."""

    def __init__(self, problem):
        self.latents, self.rows = problem.fresh, problem.reference

    def value(self, players):
        return players.generate(self.latents).square().mean() + players.discriminate(self.rows).square().mean()


def test_one_term_is_the_direct_effect_on_the_discriminator():
    problem, metric = mlp(), DiscriminatorToo(mlp())
    trace = problem.train(5)
    theta = trace.theta().clone().requires_grad_()
    phi, psi = theta.split(problem.sizes)
    value = (
        problem.generate(phi, problem.fresh).square().mean()
        + problem.discriminate(psi, problem.reference).square().mean()
    )
    (slope,) = torch.autograd.grad(value, theta)
    at = theta.detach().clone().requires_grad_()
    expected = []
    for j in range(len(problem.data)):
        real = COSTS[problem.loss][0](problem.discriminate(at.split(problem.sizes)[1], problem.data[j : j + 1])).sum()
        expected.append(0.1 / len(problem.data) * slope @ torch.autograd.grad(real, at)[0])
    assert relative_error(gi.aid(trace, metric, terms=1), torch.stack(expected)) < 1e-12


@each_game
def test_several_terms_are_read_off_one_series(make):
    problem = make()
    trace, counts = problem.train(5), [10, 2, 3, 2]
    together = gi.aid(trace, problem.metric(), terms=counts)
    assert together.shape == (4, len(problem.data))
    for scores, terms in zip(together, counts, strict=True):
        assert relative_error(scores, dense_aid(problem, trace.theta(), terms)) < 1e-12


def test_the_series_stays_exact_past_the_recorded_product():
    problem = lqgan(l2=(0.5, 0.5))
    trace = problem.train(5)
    expected = dense_aid(problem, trace.theta(), 150)
    assert relative_error(gi.aid(trace, problem.metric(), terms=150), expected) < 1e-11


@each_game
@each_rates
@pytest.mark.parametrize("damping", [0.0, 0.5])
def test_gmres_equals_a_dense_solve(make, rates, damping):
    problem = make(rates=rates, l2=(0.3, 0.2))
    trace = problem.train(5)
    scores = gi.aid(trace, problem.metric(), solver="gmres", damping=damping)
    assert relative_error(scores, dense_limit(problem, trace.theta(), damping)) < 1e-9


def test_the_series_tends_to_gmres_near_the_equilibrium_of_a_regularised_game():
    problem = lqgan(l2=(1.0, 1.0))
    trace = problem.train(300)
    limit = gi.aid(trace, problem.metric(), solver="gmres")
    few, many = gi.aid(trace, problem.metric(), terms=[10, 500])
    assert relative_error(few, limit) > 1e-2
    assert relative_error(many, limit) < 1e-10


def test_gmres_does_not_depend_on_the_scale():
    problem = lqgan(l2=(0.5, 0.5))
    trace = problem.train(5)
    default, scaled = (gi.aid(trace, problem.metric(), solver="gmres", scale=scale) for scale in (None, 0.003))
    assert relative_error(scaled, default) < 1e-10


@pytest.mark.parametrize("solver", ["neumann", "gmres"])
def test_damping_is_l2_on_both_players_at_the_same_theta(solver):
    problem, gamma = mlp(l2=(0.2, 0.1)), 0.4
    trace = problem.train(5)
    regularised = dataclasses.replace(trace, game=problem.but(l2=(0.2 + gamma, 0.1 + gamma)).game())
    damped = gi.aid(trace, problem.metric(), terms=50, damping=gamma, solver=solver)
    assert relative_error(damped, gi.aid(regularised, problem.metric(), terms=50, solver=solver)) < 1e-10
    assert relative_error(damped, gi.aid(trace, problem.metric(), terms=50, solver=solver)) > 1e-2


def test_scale_replaces_the_learning_rates():
    problem = mlp(rates=(0.1, 0.03))
    trace = problem.train(5)
    expected = dense_aid(problem.but(rates=(0.07, 0.07)), trace.theta(), 4)
    assert relative_error(gi.aid(trace, problem.metric(), terms=4, scale=0.07), expected) < 1e-12


@each_game
def test_at_equals_each_stopping_time_alone(make):
    problem = make(l2=(0.3, 0.2))
    trace, stops = problem.train(9), [7, 0, 9]
    series = gi.aid(trace, problem.metric(), terms=[2, 5], at=stops)
    limits = gi.aid(trace, problem.metric(), solver="gmres", at=stops)
    assert series.shape == (3, 2, len(problem.data))
    assert limits.shape == (3, len(problem.data))
    for k, stop in enumerate(stops):
        assert relative_error(series[k, 0], dense_aid(problem, trace.theta(stop), 2)) < 1e-12
        assert relative_error(series[k, 1], dense_aid(problem, trace.theta(stop), 5)) < 1e-12
        assert relative_error(limits[k], dense_limit(problem, trace.theta(stop))) < 1e-9


def test_aid_uses_the_batch_of_the_last_step():
    problem = lqgan()
    problem = problem.but(schedule=EpochBatches(len(problem.data), 5, (1,), seed=3))
    trace = problem.train(5)  # 24 rows in batches of 5: the last batch of an epoch, t = 4, holds 4 rows
    scores = gi.aid(trace, problem.metric(), terms=6)
    assert len(problem.schedule(4).indices) == 4
    assert scores.ne(0).sum() == 4
    assert relative_error(scores, dense_aid(problem, trace.theta(), 6, t=4)) < 1e-12


def test_the_jacobian_of_these_games_is_far_from_symmetric():
    problem = mlp()
    J = jacobian(problem, problem.start(), problem.ones)
    assert (J - J.T).norm() > 0.1 * J.norm()


def test_an_overflowing_series_says_where_and_what_to_do():
    problem = lqgan()
    with pytest.raises(gi.ConvergenceError, match=r"4000 terms overflowed at step 2, 5.*damping.*gmres"):
        gi.aid(problem.train(5), problem.metric(), terms=4000, scale=30.0, at=[2, 5])


def test_gmres_that_ran_out_of_products_says_so():
    problem = mlp(l2=(0.01, 0.01))
    with pytest.raises(gi.ConvergenceError, match=r"after 2 products at step 5.*more terms, or add damping"):
        gi.aid(problem.train(5), problem.metric(), terms=2, solver="gmres")
