"""A series that ends at a tolerance: a bound of what it lacks, the fewest terms for it, and where there is none."""

import inspect
import math
import re
from statistics import median

import numpy as np
import pytest
import torch
from support.games import (
    GAMES,
    lqgan,
    metric_gradient,
    minibatch_mlp,
    mlp,
    normal,
    relative_error,
    removal_steps,
    same_bits,
    z_matrix,
)
from torch import nn

import gan_influence as gi
from gan_influence.adjoint import FieldGraph
from gan_influence.curvature import Continuation, Field, ShiftedField
from gan_influence.solvers import neumann
from verification import dense_lqgan as dense

each_game = pytest.mark.parametrize("make", GAMES.values(), ids=GAMES)


def drawn(seed, rate=0.1, l2=0.0, rows=40):
    """An LQGAN that starts from N(0, 1), on rows of N(1, 1)."""
    generator, discriminator = gi.models.lqgan(seed=seed)
    data, schedule = normal(seed, rows, 1, mean=1.0), gi.FullBatch(normal(100 + seed, rows, 1))
    return lqgan(
        generator=generator, discriminator=discriminator, data=data, schedule=schedule,
        l2=(l2, l2), rates=(rate, rate),
    )  # fmt: skip


def rule(Z, gradient, tolerance):
    """The first M, the sums of M - 1, M and M + 1 terms, and the bound, with NumPy's inverse."""
    Z, gradient = np.asarray(Z), np.asarray(gradient)
    inverse = np.linalg.norm(np.linalg.inv(np.eye(len(Z)) - Z), 2)
    m, term, total, before = 0, gradient, np.zeros_like(gradient), None
    while m == 0 or inverse * np.linalg.norm(term) > tolerance * np.linalg.norm(total):
        m, before, total, term = m + 1, total, total + term, Z.T @ term
    return m, [torch.from_numpy(w) for w in (before, total, total + term)], inverse * np.linalg.norm(term)


@pytest.fixture
def sums(monkeypatch):
    """``w_M`` of each series, and the inverses that it was given."""
    seen = []

    def watched(operator, b, eta, terms, norms=neumann._inverse_norms):
        found = norms(operator, b, eta, terms)
        seen.append(found[0])
        return found

    def solved(self, operator, b, *, progress, solve=gi.solvers.Neumann.solve):
        found = solve(self, operator, b, progress=progress)
        seen.append((found.x[0] / operator.eta, seen.pop()))
        return found

    monkeypatch.setattr(neumann, "_inverse_norms", watched)
    monkeypatch.setattr(gi.solvers.Neumann, "solve", solved)
    return seen


@pytest.fixture
def products(monkeypatch):
    """How many products with ``J^T`` were made."""
    taken, product = [], Field.transpose_product
    monkeypatch.setattr(Field, "transpose_product", lambda self, t, c: taken.append(t) or product(self, t, c))
    return taken


@pytest.mark.parametrize(("rate", "l2", "steps"), [(0.3, 0.0, 150), (0.3, 0.1, 60)])
def test_what_drawn_games_series_lack_is_below_the_bound_and_not_far_below(sums, rate, l2, steps):
    ratios, tolerance = [], 3e-2
    for seed in range(6):
        problem = drawn(seed, rate, l2)
        trace = problem.train(steps)
        theta = trace.theta()
        game = dense.LQGAN(problem.data.numpy().ravel(), problem.schedule(0).latents.numpy().ravel(), rate, problem.l2)
        Z, gradient = game.step_matrix(theta.numpy()), metric_gradient(problem, theta).numpy()
        assert np.linalg.norm(Z, 2) > 1
        if np.abs(np.linalg.eigvals(Z)).max() >= 1:
            continue
        limit = np.linalg.solve(np.eye(4) - Z.T, gradient)
        m, (_, expected, _), bound = rule(Z, gradient, tolerance)
        scores = gi.aid(trace, problem.metric(), terms=20_000, tolerance=tolerance)
        total, inverses = sums.pop()
        assert relative_error(total, expected) < 1e-9
        assert relative_error(scores, torch.from_numpy(dense.aid(game, theta.numpy(), m) @ gradient)) < 1e-9
        tail = np.linalg.norm(limit - total.numpy())
        own = float(inverses) * np.linalg.norm(np.linalg.matrix_power(Z.T, m) @ gradient)
        assert tail <= own <= tolerance * np.linalg.norm(total) * (1 + 1e-9)
        assert own == pytest.approx(bound, rel=1e-6)
        ratios.append(bound / tail)
    assert len(ratios) >= 5
    assert min(ratios) >= 1
    assert median(ratios) < 4


@pytest.mark.parametrize(
    ("make", "options"),
    [(lqgan, {}), (lqgan, {"scale": 0.05}), (mlp, {"damping": 0.5})],
    ids=["plain", "scale", "damping"],
)
def test_it_ends_at_the_first_term_that_does(make, options, products):
    problem, tolerance = make(l2=(0.3, 0.2), rates=(0.1, 0.06)), 1e-2
    trace = problem.train(60)
    scaled = problem.but(rates=(0.05, 0.05)) if "scale" in options else problem
    damping = options.get("damping", 0.0)
    theta = trace.theta()
    m, sums, _ = rule(z_matrix(scaled, theta, damping), metric_gradient(problem, theta), tolerance)
    fewer, expected, more = (w @ removal_steps(scaled, theta, problem.ones) for w in sums)
    scores = gi.aid(trace, problem.metric(), terms=m, tolerance=tolerance, **options)
    assert len(products) == len(theta) + m
    assert m > 20
    assert relative_error(scores, expected) < 1e-10
    assert relative_error(scores, gi.aid(trace, problem.metric(), solver="gmres", **options)) < 2 * tolerance
    assert min(relative_error(scores, wrong) for wrong in (fewer, more)) > 1e-5


def test_each_stop_ends_where_it_would_alone():
    problem = lqgan(l2=(0.3, 0.2))
    trace, stops, tolerance = problem.train(120), [60, 120, 90], 1e-3
    scores, used = gi.aid(trace, problem.metric(), terms=5000, tolerance=tolerance, at=stops), []
    for one, stop in zip(scores, stops, strict=True):
        theta = trace.theta(stop)
        m, (_, w, _), _ = rule(z_matrix(problem, theta), metric_gradient(problem, theta), tolerance)
        used.append(m)
        assert relative_error(one, w @ removal_steps(problem, theta, problem.ones)) < 1e-10
    assert len(set(used)) == 3


def test_it_holds_for_the_parameters_that_newtons_steps_lead_to():
    problem = lqgan(l2=(0.3, 0.2))
    trace = problem.train(150)
    scores = gi.aid(trace, problem.metric(), terms=5000, tolerance=1e-6, newton=2)
    limit = gi.aid(trace, problem.metric(), solver="gmres", newton=2)
    assert relative_error(scores, limit) < 1e-6
    assert relative_error(scores, gi.aid(trace, problem.metric(), solver="gmres")) > 1e-5


def test_the_estimate_for_many_parameters_is_near_the_norm_and_from_below(monkeypatch):
    problem = mlp(l2=(0.1, 0.1), rates=(0.1, 0.03))
    trace = problem.train(60)
    eta, operator = problem.eta, ShiftedField(Continuation(trace), trace.theta(), [60], damping=0.01)
    (exact,), _ = neumann._inverse_norms(operator, eta[None], eta, 1000)
    inverse = torch.linalg.inv(torch.eye(len(eta)) - z_matrix(problem, trace.theta(), 0.01))
    assert float(exact) == pytest.approx(float(torch.linalg.matrix_norm(inverse, 2)), rel=1e-9)
    monkeypatch.setattr("gan_influence.solvers.inverse_norm.DENSE", 0)
    (estimate,), _ = neumann._inverse_norms(operator, eta[None], eta, 1000)
    assert 0.99 * exact < estimate < (1 + 1e-9) * exact


def test_with_more_than_256_parameters_the_norm_is_estimated():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        generator = nn.Sequential(nn.Linear(2, 40), nn.Tanh(), nn.Linear(40, 2)).double()
        discriminator = nn.Sequential(nn.Linear(2, 40), nn.Tanh(), nn.Linear(40, 1)).double()
    problem = mlp()
    trace = gi.train(gi.Game(generator, discriminator, l2=(0.3, 0.3)), problem.data, problem.schedule, 5, gi.SGD(0.1))
    assert trace.game.size > 256
    scores = gi.aid(trace, problem.metric(), damping=1.0, tolerance=1e-2)
    assert relative_error(scores, gi.aid(trace, problem.metric(), damping=1.0, solver="gmres")) < 2e-2


def test_single_precision_comes_as_near():
    problem = mlp(l2=(0.3, 0.2))
    problem = problem.but(
        generator=problem.generator.float(),
        discriminator=problem.discriminator.float(),
        data=problem.data.float(),
        schedule=gi.FullBatch(problem.schedule(0).latents.float()),
        reference=problem.reference.float(),
        fresh=problem.fresh.float(),
    )
    trace = problem.train(50)
    scores = gi.aid(trace, problem.metric(), tolerance=1e-2)
    assert scores.dtype == torch.float32
    assert relative_error(scores, gi.aid(trace, problem.metric(), solver="gmres")) < 2e-2


def test_a_series_whose_terms_are_used_up_says_how_far_it_got():
    problem, terms = lqgan(l2=(0.3, 0.2)), 30
    trace = problem.train(100)
    Z, gradient = z_matrix(problem, trace.theta()).numpy(), metric_gradient(problem, trace.theta()).numpy()
    inverse = np.linalg.norm(np.linalg.inv(np.eye(4) - Z), 2)
    total = sum(np.linalg.matrix_power(Z.T, k) @ gradient for k in range(terms))
    ratio = inverse * np.linalg.norm(np.linalg.matrix_power(Z.T, terms) @ gradient) / np.linalg.norm(total)
    message = (
        "not come within tolerance=1e-06 of its limit after 30 terms at step 50, 100: |(I - Z)^-1| |(Z^T)^30 grad E| "
    )
    with pytest.raises(gi.ConvergenceError, match=re.escape(message)) as caught:
        gi.aid(trace, problem.metric(), terms=terms, tolerance=1e-6, at=[50, 0, 100][::2])
    assert f", {ratio:.2g} of its sum" in str(caught.value)
    assert f", {inverse:.2g}. Allow more terms, add damping, or take solver='gmres'" in str(caught.value)


def test_a_series_that_diverges_is_an_error():
    problem = lqgan(l2=(0.5, 0.5))
    trace = problem.train(5)
    with pytest.raises(gi.ConvergenceError, match=r"not come within tolerance=0.01 .* after 60 terms at step 5"):
        gi.aid(trace, problem.metric(), terms=60, scale=6.0, tolerance=0.01)
    with pytest.raises(gi.ConvergenceError, match=r"terms overflowed at step 5: .*damping"):
        gi.aid(trace, problem.metric(), terms=10**6, scale=6.0, tolerance=0.01)


def test_a_game_without_curvature_has_no_inverse():
    generator, discriminator = mlp().generator[0], nn.Linear(3, 1).double().requires_grad_(False)
    game = gi.Game(generator, discriminator, loss="wasserstein")
    trace = gi.train(game, normal(1, 14, 3), gi.FullBatch(normal(2, 10, 2)), 5, gi.SGD(0.1))
    metric = gi.metrics.AverageLogLikelihood(normal(3, 9, 3), normal(4, 11, 2), bandwidth=0.8)
    with pytest.raises(gi.ConvergenceError, match=r"the inverse of I - Z at step 5, which is singular: add damping"):
        gi.aid(trace, metric, tolerance=0.01)
    assert gi.aid(trace, metric, tolerance=0.01, damping=1.0).eq(0).all()


FRESH = {
    "minibatches": minibatch_mlp,
    "fresh latents": lambda: mlp().but(schedule=lambda t: gi.Batch(None, normal(t, 10, 2))),
}


@pytest.mark.parametrize("make", FRESH.values(), ids=FRESH)
def test_steps_of_different_batches_have_no_limit_to_come_near(make):
    problem = make()
    message = r"tolerance= needs steps that all see the same batch, .* step 5 has one of its own: .*solver='gmres'"
    with pytest.raises(ValueError, match=message):
        gi.aid(problem.train(5), problem.metric(), tolerance=0.1)


def test_a_batch_that_changes_later_is_found():
    problem = mlp(l2=(0.3, 0.2))
    latents = problem.schedule(0).latents
    problem = problem.but(schedule=lambda t: gi.Batch(None, latents if t < 20 else 2 * latents))
    with pytest.raises(ValueError, match=r"step 20 has one of its own"):
        gi.aid(problem.train(5), problem.metric(), tolerance=1e-3)


@pytest.mark.parametrize("tolerance", [0, -0.1, math.nan, math.inf, True, "0.1", [0.1]])
def test_tolerance_must_be_a_finite_number_above_0(tolerance):
    problem = lqgan()
    message = rf"tolerance must be a finite number above 0, or None, got {re.escape(repr(tolerance))}"
    with pytest.raises(ValueError, match=message):
        gi.aid(problem.train(2), problem.metric(), tolerance=tolerance)


def test_gmres_has_no_series_to_end():
    problem = lqgan()
    with pytest.raises(ValueError, match=r"solver='gmres' has none: leave tolerance out, or take solver='neumann'"):
        gi.aid(problem.train(2), problem.metric(), solver="gmres", tolerance=0.1)


def test_a_series_ends_once():
    problem = lqgan()
    with pytest.raises(ValueError, match=r"tolerance=0.1 has no other ends: give one number of terms, .* got \[5, 9\]"):
        gi.aid(problem.train(2), problem.metric(), terms=[5, 9], tolerance=0.1)


@pytest.mark.bits
@each_game
def test_without_a_tolerance_all_terms_are_summed_with_the_same_bits_as_before(make):
    problem = make(l2=(0.3, 0.2))
    trace, metric = problem.train(20), problem.metric()
    assert inspect.signature(gi.aid).parameters["tolerance"].default is None
    graph = FieldGraph(trace.game, trace.theta(), trace.inputs(0))
    theta = trace.theta().clone().requires_grad_()
    (term,) = torch.autograd.grad(metric.value(gi.Players(trace.game, theta)), theta)
    total = term.clone()
    for _ in range(29):
        scaled = problem.eta * term
        term = term - graph.transpose_product(scaled) - 0 * scaled
        total += term
    assert same_bits(gi.aid(trace, metric, terms=30), 0 - graph.row_terms(-problem.eta * total))
