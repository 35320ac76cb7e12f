"""AID against eq. 12 and 14 with dense matrices (TNNLS III-B2, IV-C2, IV-C4), of minibatches too (VI-A2)."""

import copy
import dataclasses
import math
import weakref

import pytest
import torch
from support.games import (
    COSTS,
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
from gan_influence import curvature
from gan_influence.adjoint import FieldGraph
from gan_influence.curvature import Field
from gan_influence.losses import RowLoss
from gan_influence.stacking import stacks

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


@pytest.mark.parametrize(("steps", "moves"), [(1, (0, 0)), (2, (0, 0)), (11, (4, 5)), (12, (5, 5))])
def test_in_turns_each_players_rate_is_that_of_its_own_last_move(steps, moves):
    problem = lqgan()
    trace = gi.train(
        problem.game(), problem.data, problem.schedule, steps, gi.SGD(lambda k: 0.1 * 0.9**k), update="turns"
    )
    assert list(trace.updates.rates(steps - 1).values()) == pytest.approx([0.1 * 0.9**k for k in moves], rel=1e-12)


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


def test_the_jacobian_of_these_games_is_far_from_symmetric():
    problem = mlp()
    J = jacobian(problem, problem.start(), problem.ones)
    assert (J - J.T).norm() > 0.1 * J.norm()


def test_an_overflowing_series_says_where_and_what_to_do(products):
    problem = lqgan()
    with pytest.raises(gi.ConvergenceError, match=r"10000000 terms overflowed at step 2, 5.*damping.*gmres"):
        gi.aid(problem.train(5), problem.metric(), terms=10_000_000, scale=30.0, at=[2, 5])
    assert len(products) < 10_000  # and no more is computed of it


@pytest.fixture
def products(monkeypatch):
    """The steps whose Jacobian the series has been multiplied by."""
    taken = []
    product = Field.transpose_product
    monkeypatch.setattr(
        Field, "transpose_product", lambda self, t, cotangent: taken.append(t) or product(self, t, cotangent)
    )
    return taken


@pytest.mark.bits
@pytest.mark.parametrize("at", [None, [2, 5]], ids=["the end", "two stops"])
def test_a_series_ends_where_eta_times_its_term_is_zero(products, at):
    problem = lqgan()
    trace, metric = problem.train(5), problem.metric()
    few, *rest = gi.aid(trace, metric, terms=[3, 10_000_000], scale=0.1, damping=9.0, at=at).movedim(-2, 0)
    assert len(products) < 1000  # a tenth of each term is left to the next: 1e-323 is soon passed
    whole, *_ = gi.aid(trace, metric, terms=[len(products) + 1], scale=0.1, damping=9.0, at=at).movedim(-2, 0)
    assert same_bits(rest[0], whole)
    assert not same_bits(few, whole)


def test_a_stop_whose_terms_are_zero_does_not_end_the_series_of_another():
    """Where one of two runs stands still: its metric has no gradient, so that all of its terms are zero."""
    gradient = torch.tensor([[0.0], [1.0]], dtype=torch.float64)

    class Slow:
        def transpose_step(self, m, w, eta):
            return w - 0.01 * eta * w

        def check_series(self, terms):
            pass

    total = gi.solvers.Neumann(terms=120, scale=1.0).solve(Slow(), gradient).x
    assert total[0].tolist() == [0]
    assert total[1].tolist() == pytest.approx([(1 - 0.99**120) / 0.01], rel=1e-12)


def test_gmres_that_ran_out_of_products_says_so():
    problem = mlp(l2=(0.01, 0.01))
    with pytest.raises(gi.ConvergenceError, match=r"after 2 products at step 5.*more terms, or add damping"):
        gi.aid(problem.train(5), problem.metric(), terms=2, solver="gmres")


# ------------------------------------------------------------------------------------------------------ minibatches

STEPS = 5  # an epoch of lqgan's 24 rows in batches of 5, 5, 5, 5, 4; mlp's 14 rows are in the middle of their second


def in_minibatches(make, batch_size=5, **changes):
    problem = make(**changes)
    shape = problem.schedule(0).latents.shape[1:]
    return problem.but(schedule=EpochBatches(len(problem.data), batch_size, shape, seed=3))


def expected_field(problem, theta, steps, weights=None):
    """The mean of the Jacobians of these steps' batches, each weighted by its rows."""
    weights = problem.ones if weights is None else weights
    sizes = [len(problem.schedule(t).indices) for t in steps]
    sums = sum(size * jacobian(problem, theta, weights, t) for size, t in zip(sizes, steps, strict=True))
    return sums / sum(sizes)


def steps_of_all_rows(problem, theta, weights):
    """Column j: ``-(eta / N) w_j grad f(D(psi, x_j))``."""
    return removal_steps(problem.but(schedule=gi.FullBatch(problem.fresh)), theta, weights)


def dense_stochastic_aid(problem, theta, terms, end=STEPS, damping=0.0, weights=None):
    """``grad E . (I + Z_1 + Z_1 Z_2 + ...) dv``, with Z_m of the batch of step ``end + m - 1``."""
    weights = problem.ones if weights is None else weights
    series = product = eye = torch.eye(len(theta), dtype=torch.float64)
    for m in range(1, terms):
        damped = jacobian(problem, theta, weights, t=end + m - 1) + damping * eye
        product = product @ (eye - problem.eta[:, None] * damped)
        series = series + product
    return metric_gradient(problem, theta) @ series @ steps_of_all_rows(problem, theta, weights)


def dense_stochastic_limit(problem, theta, steps, damping=0.0):
    damped = expected_field(problem, theta, steps) + damping * torch.eye(len(theta), dtype=torch.float64)
    changes = torch.linalg.solve(problem.eta[:, None] * damped, steps_of_all_rows(problem, theta, problem.ones))
    return metric_gradient(problem, theta) @ changes


@each_game
@each_rates
@pytest.mark.parametrize("terms", [2, 7])
@pytest.mark.parametrize("damping", [0.0, 0.5])
def test_every_term_takes_the_batch_of_the_next_step_after_the_end(make, rates, terms, damping):
    problem = in_minibatches(make, rates=rates, l2=(0.3, 0.2))
    trace = problem.train(STEPS)
    scores = gi.aid(trace, problem.metric(), terms=terms, damping=damping)
    assert relative_error(scores, dense_stochastic_aid(problem, trace.theta(), terms, damping=damping)) < 1e-12
    assert scores.ne(0).all()
    for end in (STEPS - 1, STEPS + 1):
        elsewhere = dense_stochastic_aid(problem, trace.theta(), terms, end, damping)
        assert relative_error(scores, elsewhere) > 1e-3


@each_game
def test_the_series_is_one_of_directional_derivatives_of_the_batches_fields(make):
    problem = in_minibatches(make, l2=(0.3, 0.2))
    trace, signs = problem.train(STEPS), normal(21, len(problem.data)).sign()
    theta, terms, gamma = trace.theta(), 6, 0.2
    change = steps_of_all_rows(problem, theta, problem.ones) @ signs
    exact = gi.aid(trace, problem.metric(), terms=terms, damping=gamma) @ signs

    def along(direction, t, h):
        ahead, behind = (field(problem, theta + s * h * direction, problem.ones, t).detach() for s in (1, -1))
        return (ahead - behind) / (2 * h)

    def by_differences(h):
        summed = change
        for m in range(terms - 1, 0, -1):
            product = along(summed / summed.norm(), STEPS + m - 1, h) * summed.norm() + gamma * summed
            summed = change + summed - problem.eta * product
        return metric_gradient(problem, theta) @ summed

    coarse, fine = (abs(float(by_differences(h) - exact)) for h in (0.2, 0.1))
    assert 1.8 < math.log2(coarse / fine) < 2.2


def test_a_minibatch_run_of_one_term_scores_the_direct_effect_of_all_rows():
    problem = in_minibatches(mlp)
    whole = dataclasses.replace(problem.train(STEPS), schedule=gi.FullBatch(problem.fresh))
    scores = gi.aid(problem.train(STEPS), DiscriminatorToo(problem), terms=1)
    assert relative_error(scores, gi.aid(whole, DiscriminatorToo(problem), terms=1)) < 1e-12
    assert scores.ne(0).all()


@each_game
def test_several_terms_and_stops_share_the_batches_after_the_end_of_the_trace(make):
    problem = in_minibatches(make, l2=(0.3, 0.2))
    trace, counts, stops = problem.train(9), [5, 1, 2, 5], [4, 0, 9]
    scores = gi.aid(trace, problem.metric(), terms=counts, at=stops, damping=0.1)
    limits = gi.aid(trace, problem.metric(), solver="gmres", at=stops, damping=0.1)
    assert scores.shape == (3, 4, len(problem.data))
    per_epoch = range(9, 9 + math.ceil(len(problem.data) / 5))
    for k, stop in enumerate(stops):
        theta = trace.theta(stop)
        for one, count in zip(scores[k], counts, strict=True):
            expected = dense_stochastic_aid(problem, theta, count, end=9, damping=0.1)
            torch.testing.assert_close(one, expected, rtol=1e-11, atol=1e-16)
        assert relative_error(limits[k], dense_stochastic_limit(problem, theta, per_epoch, 0.1)) < 1e-9


@each_game
@pytest.mark.parametrize("options", [{"terms": 8}, {"solver": "gmres"}], ids=["neumann", "gmres"])
def test_removed_rows_score_zero_and_count_in_no_batch(make, options):
    problem, removed = in_minibatches(make, l2=(0.3, 0.2)), [3, 8]
    trace = gi.retrain(problem.train(6), removed)
    scores = gi.aid(trace, problem.metric(), **options)
    kept = [row for row in range(len(problem.data)) if row not in removed]
    assert same_bits(scores[removed], torch.zeros(2, dtype=torch.float64))
    assert scores[kept].ne(0).all()
    if "terms" in options:
        expected = dense_stochastic_aid(problem, trace.theta(), 8, end=6, weights=trace.weights)
        assert relative_error(scores, expected) < 1e-12
        everywhere = dense_stochastic_aid(problem, trace.theta(), 8, end=6)
        assert relative_error(scores[kept], everywhere[kept]) > 1e-3


@pytest.mark.bits
def test_a_long_stochastic_series_stays_exact_and_has_the_bits_of_the_eager_one(monkeypatch, alive):
    problem = in_minibatches(lqgan, l2=(0.5, 0.5))
    trace = gi.retrain(problem.train(STEPS), [3])  # 160 batches of 5 rows, more than the 64 before recording
    recorded = gi.aid(trace, problem.metric(), terms=200)
    assert len(alive) < 120
    assert relative_error(recorded, dense_stochastic_aid(problem, trace.theta(), 200, weights=trace.weights)) < 1e-11
    monkeypatch.setattr("gan_influence.replay.recorded._EAGER_CALLS", 10**9)
    assert same_bits(recorded, gi.aid(copy.copy(trace), problem.metric(), terms=200))  # a copy has no recordings


@pytest.mark.bits
def test_batches_of_either_size_are_recorded_with_the_bits_of_the_eager_ones(monkeypatch):
    problem = in_minibatches(mlp, l2=(0.3, 0.2))

    def run():
        trace = problem.train(STEPS)
        series = gi.aid(trace, problem.metric(), terms=[3, 30], at=[2, 5], damping=0.1)
        return series, gi.aid(trace, problem.metric(), solver="gmres")

    monkeypatch.setattr("gan_influence.replay.recorded._EAGER_CALLS", 5)
    recorded = run()
    monkeypatch.setattr("gan_influence.replay.recorded._EAGER_CALLS", 10**9)
    assert all(same_bits(one, other) for one, other in zip(recorded, run(), strict=True))


def test_a_run_is_recorded_once_for_all_of_its_series(monkeypatch):
    """Also at other parameters, those of another stop."""
    monkeypatch.setattr("gan_influence.replay.recorded._EAGER_CALLS", 2)
    problem = in_minibatches(lqgan, l2=(0.3, 0.2))
    trace = problem.train(STEPS)
    gi.aid(trace, problem.metric(), terms=12)  # two batches of 4 rows, and more of 5
    linearised = []
    monkeypatch.setattr(curvature, "FieldGraph", lambda *of: linearised.append(of) or FieldGraph(*of))
    again = gi.aid(trace, problem.metric(), terms=12, damping=0.1, at=[3])
    assert len(linearised) <= 4  # replays that are compared
    assert relative_error(again[0], dense_stochastic_aid(problem, trace.theta(3), 12, damping=0.1)) < 1e-11


@each_game
@pytest.mark.parametrize("options", [{"terms": [3, 40]}, {"solver": "gmres"}], ids=["neumann", "gmres"])
def test_batches_of_all_rows_in_another_order_give_the_scores_of_the_full_batch(make, options):
    problem = make(l2=(0.3, 0.2))
    latents = problem.schedule(0).latents
    shuffled = gi.Minibatches(len(problem.data), len(problem.data), seed=3)
    trace = problem.but(schedule=lambda t: gi.Batch(shuffled(t).indices, latents)).train(STEPS)
    scores = gi.aid(trace, problem.metric(), **options)
    full = gi.aid(dataclasses.replace(trace, schedule=problem.schedule), problem.metric(), **options)
    assert relative_error(scores, full) < 1e-11


def test_the_stochastic_series_tends_to_that_of_the_full_batch_as_the_learning_rate_falls():
    problem = lqgan(l2=(0.3, 0.2))
    latents = problem.schedule(0).latents
    thirds = torch.randperm(24, generator=torch.Generator().manual_seed(3)).view(3, 8)
    trace = problem.but(schedule=lambda t: gi.Batch(thirds[t % 3], latents)).train(6)
    full = dataclasses.replace(trace, schedule=problem.schedule)

    def error(scale):
        drawn, expected = (gi.aid(run, problem.metric(), terms=round(6 / scale), scale=scale) for run in (trace, full))
        return relative_error(drawn, expected)

    coarse, middle, fine = (error(scale) for scale in (0.2, 0.1, 0.05))
    assert coarse > 1e-3
    assert 0.9 < math.log2(coarse / middle) < 1.1
    assert 0.9 < math.log2(middle / fine) < 1.1


@each_game
@pytest.mark.parametrize("damping", [0.0, 0.5])
@pytest.mark.parametrize("end", [5, 6, 7])
def test_gmres_takes_the_mean_field_of_as_many_batches_as_hold_all_rows(make, damping, end):
    problem = in_minibatches(make, l2=(0.3, 0.2))
    trace, per_epoch = problem.train(end), math.ceil(len(problem.data) / 5)
    scores = gi.aid(trace, problem.metric(), solver="gmres", damping=damping)
    steps = range(end, end + per_epoch)
    assert sum(len(problem.schedule(t).indices) for t in steps) == len(problem.data)
    assert relative_error(scores, dense_stochastic_limit(problem, trace.theta(), steps, damping)) < 1e-9


@pytest.mark.parametrize(("make", "end"), [(lqgan, 5), (mlp, 6)], ids=GAMES)
def test_the_mean_field_of_an_epoch_is_that_of_the_whole_data(make, end):
    problem = in_minibatches(make, l2=(0.3, 0.2))
    latents, batches = make().schedule(0).latents, problem.schedule
    trace = problem.but(schedule=lambda t: gi.Batch(batches(t).indices, latents)).train(end)
    whole = problem.but(schedule=gi.FullBatch(latents))
    scores = gi.aid(trace, problem.metric(), solver="gmres")
    assert relative_error(scores, dense_limit(whole, trace.theta())) < 1e-9
    across = gi.aid(
        dataclasses.replace(trace, schedule=lambda t: trace.schedule(t + 1)), problem.metric(), solver="gmres"
    )
    assert relative_error(across, scores) > 1e-3


def test_gmres_weights_batches_that_hold_more_than_all_rows():
    problem = mlp(l2=(0.3, 0.2))
    sizes = (9, 3, 8)

    def schedule(t):
        drawn = torch.randint(14, (sizes[t % 3],), generator=torch.Generator().manual_seed(t))
        return gi.Batch(drawn, normal(t, 4, 2))

    problem = problem.but(schedule=schedule)
    trace = problem.train(3)
    scores = gi.aid(trace, problem.metric(), solver="gmres")
    assert relative_error(scores, dense_stochastic_limit(problem, trace.theta(), [3, 4, 5])) < 1e-9
    assert relative_error(scores, dense_stochastic_limit(problem, trace.theta(), [3, 4])) > 1e-3


def test_all_rows_with_fresh_latents_are_a_batch_like_any_other():
    problem = mlp(l2=(0.3, 0.2)).but(schedule=lambda t: gi.Batch(None, normal(t, 10, 2)))
    trace = problem.train(STEPS)
    scores = gi.aid(trace, problem.metric(), terms=8)
    assert relative_error(scores, dense_stochastic_aid(problem, trace.theta(), 8)) < 1e-12
    limit = gi.aid(trace, problem.metric(), solver="gmres")
    assert relative_error(limit, dense_limit(problem, trace.theta(), t=STEPS)) < 1e-9


@pytest.mark.bits
def test_all_rows_with_copies_of_the_same_latents_are_the_full_batch_to_the_bit():
    problem = mlp(l2=(0.3, 0.2))
    latents = problem.schedule(0).latents
    trace = problem.train(STEPS)
    copied = dataclasses.replace(trace, schedule=lambda t: gi.Batch(None, latents.clone()))
    for options in ({"terms": [2, 20]}, {"solver": "gmres"}):
        full, same = (gi.aid(run, problem.metric(), **options) for run in (trace, copied))
        assert same_bits(full, same)


SEEN = []


class Watching(nn.Module):
    """The discriminator that it wraps; SEEN says how many rows it was given at each call."""

    def __init__(self, module):
        super().__init__()
        self.module = module

    def forward(self, rows):
        SEEN.append(len(rows))
        return self.module(rows)


@pytest.mark.bits
@pytest.mark.parametrize("options", [{"terms": [3, 9]}, {"solver": "gmres"}], ids=["neumann", "gmres"])
def test_no_more_rows_are_looked_at_together_than_in_training(options):
    problem = in_minibatches(mlp, batch_size=13, l2=(0.3, 0.2))  # 13 rows, 1 row, 13 rows, ...
    trace = problem.but(discriminator=Watching(problem.discriminator)).train(4)
    SEEN.clear()
    scores = gi.aid(trace, problem.metric(), **options)
    assert set(SEEN) == {13, 1}
    assert same_bits(scores, gi.aid(problem.train(4), problem.metric(), **options))
    SEEN.clear()
    gi.aid(trace, problem.metric(), terms=1)
    assert SEEN == [13, 13, 13, 13]  # rows, and as many generated ones; the last block is filled up


@pytest.fixture
def alive(monkeypatch):
    """How many graphs of the field there were whenever another was built."""
    graphs, counts, build = weakref.WeakSet(), [], FieldGraph.__init__

    def remember(self, *args):
        counts.append(len(graphs))
        graphs.add(self)
        build(self, *args)

    monkeypatch.setattr(FieldGraph, "__init__", remember)
    return counts


def test_memory_does_not_grow_with_the_terms(alive):
    problem = in_minibatches(mlp, l2=(0.3, 0.2))
    trace = problem.train(STEPS)
    gi.aid(trace, problem.metric(), terms=50)
    gi.aid(trace, problem.metric(), solver="gmres")
    assert len(alive) > 60
    assert max(alive) == 0


def test_full_batches_share_one_graph(alive):
    problem = mlp(l2=(0.3, 0.2))
    trace = problem.train(STEPS)
    stacks(trace)
    alive.clear()
    gi.aid(trace, problem.metric(), terms=[3, 10], at=[2, 5])
    gi.aid(trace, problem.metric(), solver="gmres")
    assert len(alive) == 2


def test_a_discriminator_without_parameters_leaves_nothing_to_score():
    problem = in_minibatches(mlp)
    problem.discriminator.requires_grad_(False)
    trace = problem.train(STEPS)
    assert gi.aid(trace, problem.metric(), terms=[1, 4], at=[0, 5]).eq(0).all()
    assert gi.aid(trace, problem.metric(), solver="gmres", damping=0.5).eq(0).all()


def test_real_rows_that_cost_the_same_everywhere_score_zero():
    problem = in_minibatches(mlp)
    indifferent = RowLoss(real=torch.zeros_like, fake=nn.functional.softplus, generator=lambda a: -a)
    game = gi.Game(problem.generator, problem.discriminator, loss=indifferent)
    trace = gi.train(game, problem.data, problem.schedule, STEPS, gi.SGD(0.1))
    assert gi.aid(trace, problem.metric(), terms=[1, 4], at=[0, 5]).eq(0).all()


def test_single_precision_scores_agree_to_single_precision():
    problem = mlp(l2=(0.3, 0.2)).but(schedule=gi.Minibatches(14, 5, (2,), seed=3))
    players = [copy.deepcopy(module).float() for module in (problem.generator, problem.discriminator)]
    metric = gi.metrics.AverageLogLikelihood(problem.reference.float(), problem.fresh.float(), bandwidth=0.8)
    single = gi.train(gi.Game(*players, l2=problem.l2), problem.data.float(), problem.schedule, 6, gi.SGD(0.1))
    for options in ({"terms": 20}, {"solver": "gmres"}):
        scores = gi.aid(single, metric, **options)
        assert scores.dtype == torch.float32
        assert relative_error(scores.double(), gi.aid(problem.train(6), problem.metric(), **options)) < 1e-3


def ending(batches):
    """The schedule of a list of batches."""
    return lambda t: batches[t]


def test_a_schedule_that_ends_with_the_run_is_asked_to_go_on():
    problem = in_minibatches(lqgan)
    problem = problem.but(schedule=ending([problem.schedule(t) for t in range(8)]))
    trace = problem.train(STEPS)
    assert gi.aid(trace, problem.metric(), terms=4).ne(0).all()
    with pytest.raises(
        ValueError,
        match=r"no batch of step 8 \(IndexError: .*\)\. AID with 5 terms uses .* steps 5 to 8, .*fresh batch.*go on",
    ):
        gi.aid(trace, problem.metric(), terms=[2, 5])
    with pytest.raises(
        ValueError, match=r"no batch of step 8 .*solver='gmres' uses those from step 5 on, .*they hold 24 rows.*go on"
    ):
        gi.aid(trace, problem.metric(), solver="gmres")


def test_one_term_asks_for_no_step_after_the_end():
    problem = in_minibatches(lqgan)
    problem = problem.but(schedule=ending([problem.schedule(t) for t in range(STEPS)]))
    assert gi.aid(problem.train(STEPS), problem.metric(), terms=1).eq(0).all()


def test_a_batch_after_the_end_that_is_none_is_named():
    problem = in_minibatches(lqgan)
    batches = problem.schedule
    problem = problem.but(schedule=lambda t: batches(t) if t < STEPS else None)
    with pytest.raises(ValueError, match=r"no batch of step 13 \(TypeError: .*\)"):
        gi.aid(problem.train(STEPS), problem.metric(), terms=10)
    empty = problem.but(schedule=lambda t: batches(t)._replace(indices=torch.arange(5 if t < STEPS else 0)))
    with pytest.raises(ValueError, match=r"no batch of step 13 \(IndexError: .*at least one, got \[\]\)"):
        gi.aid(empty.train(STEPS), problem.metric(), terms=10)
