"""Solvers of AID: each against a dense solution, with many right-hand sides, with damping, and where it fails."""

import inspect
import math
import re
from dataclasses import dataclass, replace
from types import SimpleNamespace

import pytest
import torch
from support.games import (
    dense_limit,
    jacobian,
    lqgan,
    metric_gradient,
    minibatch_mlp,
    mlp,
    normal,
    relative_error,
    same_bits,
)

import gan_influence as gi
from gan_influence.curvature import Continuation, ShiftedField
from gan_influence.solvers import GMRES, LiSSA, Momentum, Neumann, NormalEquations, Solution


@dataclass(frozen=True)
class Dense:
    """A solver of one's own: the matrix, made of its products, and LU factors of it."""

    largest: float = 1e8

    def solve(self, operator, b, *, progress=False):
        d = b.shape[-1]
        rows = operator.transpose_product(torch.eye(d).to(b))  # row i is A^T e_i, so this is A
        x = torch.linalg.solve(rows.T, b.T).T
        residual = (operator.transpose_product(x) - b).norm(dim=1) / b.norm(dim=1)
        good = torch.linalg.cond(rows).expand(len(b)) <= self.largest
        return Solution(x, d + len(b), residual, good)


@dataclass(frozen=True)
class Scaled:
    """A solver of one's own that solves each row with its own matrix, by many steps of gradient descent."""

    eta: float
    rowwise = True

    def solve(self, operator, b, *, progress=False):
        eta = torch.full_like(operator.shift, self.eta)
        w = torch.zeros_like(b)
        for _ in range(400):
            w = b + operator.transpose_step(0, w, eta)
        return Solution(eta * w, 400)


SOLVERS = {
    "neumann": Neumann(400, scale=0.3),
    "neumann-within": Neumann(3000, tolerance=1e-9, scale=0.3),
    "gmres": GMRES(),
    "gmres-within": GMRES(tolerance=1e-9),
    "normal-equations": NormalEquations(),
    "lissa": LiSSA(scale=3.0, tolerance=1e-9),
    "momentum": Momentum(3000, rate=0.3, momentum=0.0, tolerance=1e-9),  # which turning fields do not bear
    "of-ones-own": Dense(),
    "of-ones-own-by-rows": Scaled(0.3),
}
each_solver = pytest.mark.parametrize("solver", SOLVERS.values(), ids=SOLVERS)
MATRICES = {"lqgan": lambda: lqgan(l2=(0.5, 0.5)), "mlp": lambda: mlp(l2=(0.5, 0.5))}
each_game = pytest.mark.parametrize("make", MATRICES.values(), ids=MATRICES)
each_damping = pytest.mark.parametrize("damping", [0.0, 0.7])


def operator_of(problem, steps=20, damping=0.0, **run):
    trace = problem.train(steps, **run)
    return ShiftedField(Continuation(trace), trace.theta(), [steps], damping)


def matrix(problem, theta, damping=0.0):
    """By autograd, of the game as it is written out in the tests."""
    return jacobian(problem, theta, problem.ones) + damping * torch.eye(len(theta)).double()


@each_solver
@each_game
@each_damping
def test_the_solution_is_the_dense_one(solver, make, damping):
    problem = make()
    operator = operator_of(problem, damping=damping)
    A = matrix(problem, operator.theta, damping)
    assert (A - A.T).norm() > 0.05 * A.norm()  # so that A and its transpose are told apart
    b = normal(5, 3, len(A))
    kept = b.clone()
    found = solver.solve(operator, b)
    assert found.x.shape == b.shape
    assert relative_error(found.x, torch.linalg.solve(A.T, b.T).T) < 1e-7
    assert same_bits(b, kept)


@each_solver
@each_game
def test_many_right_hand_sides_are_solved_as_each_alone(solver, make):
    operator = operator_of(make())
    b = normal(6, 4, len(operator.theta)) * torch.tensor([[1.0], [1e-3], [30.0], [1.0]]).double()
    together, alone = solver.solve(operator, b), [solver.solve(operator, one[None]) for one in b]
    assert together.products <= sum(one.products for one in alone)
    for x, one in zip(together.x, alone, strict=True):
        assert relative_error(x, one.x[0]) < 1e-8


@each_solver
def test_what_is_said_of_a_solution_is_so(solver):
    problem = mlp(l2=(0.5, 0.5))
    operator = operator_of(problem)
    b = normal(5, 3, len(operator.theta))
    found = solver.solve(operator, b)
    true = (found.x @ matrix(problem, operator.theta) - b).norm(dim=1) / b.norm(dim=1)
    assert found.told == ""
    assert found.products >= 1
    if found.converged is not None:
        assert found.converged.all()
        assert true.max() < 1e-8
    if found.residual is not None:
        torch.testing.assert_close(found.residual, true, rtol=1e-3, atol=1e-12)


@each_solver
@each_game
def test_aid_scores_with_it_as_with_the_dense_limit(solver, make):
    problem = make()
    trace = problem.train(20)
    scores = gi.aid(trace, problem.metric(), damping=0.2, solver=solver, at=[20, 5])
    for one, stop in zip(scores, (20, 5), strict=True):
        assert relative_error(one, dense_limit(problem, trace.theta(stop), 0.2)) < 1e-7


MISSED = {
    "neumann": (Neumann(30, tolerance=1e-9, scale=0.01), r"not come within tolerance=1e-09 .* 30 terms at step 20:"),
    "neumann-overflow": (Neumann(10**6, scale=1e3), r"series of 1000000 terms overflowed at step 20: .*add damping"),
    "gmres": (GMRES(2), r"GMRES left .* after 2 products at step 20: allow more products, .*or add damping"),
    "gmres-within": (GMRES(2, tolerance=1e-3), r"GMRES left .* after 2 products at step 20"),
    "of-ones-own": (Dense(largest=1.0), r"Dense has not converged at step 20 after 16 products: .*add damping"),
}  # fmt: skip


@pytest.mark.parametrize(("solver", "message"), MISSED.values(), ids=MISSED)
def test_a_solver_that_has_not_converged_says_so_and_aid_refuses_it(solver, message):
    problem = mlp(l2=(0.01, 0.01))
    operator = operator_of(problem)
    found = solver.solve(operator, normal(5, 2, len(operator.theta)))
    assert not found.converged.any()
    message = message.replace("after 16", f"after {len(operator.theta) + 1}")
    with pytest.raises(gi.ConvergenceError, match=message):
        gi.aid(problem.train(20), problem.metric(), solver=solver)


def test_one_right_hand_side_that_is_missed_is_told_from_those_that_are_solved():
    A = torch.diag(torch.tensor([1.0, 2.0, 3.0, 4.0]).double())
    operator = SimpleNamespace(transpose_product=lambda c: c @ A, where=lambda rows: f"rows {rows.tolist()}")
    b = torch.stack([A[0], normal(5, 4), A[1]])  # GMRES needs one product for an eigenvector, four for the other
    found = GMRES(2, tolerance=1e-6).solve(operator, b)
    assert found.converged.tolist() == [True, False, True]
    assert relative_error(found.x[::2], torch.eye(4).double()[:2]) < 1e-12
    assert found.residual[1] > 1e-3
    assert "after 2 products at rows [False, True, False]: allow more products" in found.told


def test_a_looser_tolerance_takes_fewer_products():
    operator = operator_of(mlp(l2=(0.5, 0.5)))
    b = normal(5, 1, len(operator.theta))
    for make in (GMRES, lambda tolerance: Neumann(3000, tolerance, scale=0.3)):
        coarse, fine = (make(tolerance=tolerance).solve(operator, b) for tolerance in (1e-2, 1e-9))
        assert coarse.products < fine.products
        assert coarse.converged.all()
        assert coarse.residual.max() > fine.residual.max()


# ------------------------------------------------------------------------------------------------- operators, batches


def test_products_are_those_with_the_dense_matrix_and_its_transpose():
    problem = mlp(l2=(0.3, 0.2))
    operator = operator_of(problem, damping=0.4)
    A, vectors = matrix(problem, operator.theta, 0.4), normal(7, 3, len(operator.theta))
    for given in (vectors, vectors[:1], vectors[0]):
        assert relative_error(operator.product(given), given @ A.T) < 1e-11
        assert relative_error(operator.transpose_product(given), given @ A) < 1e-11
    eta = torch.linspace(0.1, 0.2, len(A)).double()
    expected = vectors - (eta * vectors) @ A
    assert relative_error(operator.transpose_step(0, vectors, eta), expected) < 1e-11
    assert operator.where(torch.tensor([False, True, True])) == "step 20"


def test_rows_with_a_theta_each_have_a_matrix_each():
    problem = mlp(l2=(0.3, 0.2))
    trace = problem.train(20)
    thetas = torch.stack([trace.theta(stop) for stop in (3, 20)])
    operator, c = ShiftedField(Continuation(trace), thetas, [3, 20], 0.0), normal(7, 2, thetas.shape[1])
    for k, (one, theta) in enumerate(zip(operator.apart(), thetas, strict=True)):
        A = matrix(problem, theta)
        assert relative_error(operator.transpose_product(c)[k], c[k] @ A) < 1e-11
        assert relative_error(operator.product(c)[k], A @ c[k]) < 1e-11
        assert relative_error(one.transpose_product(c[k]), c[k] @ A) < 1e-11
    assert operator.where(torch.tensor([True, True])) == "step 3, 20"
    assert operator.where(torch.tensor([False, True])) == "step 20"


@pytest.mark.parametrize("solver", [Dense(), GMRES()], ids=["of-ones-own", "gmres"])
def test_the_mean_over_an_epoch_is_what_a_solver_of_the_limit_is_given(solver):
    problem = minibatch_mlp(l2=(0.5, 0.5))
    trace = problem.train(6)
    scores = gi.aid(trace, problem.metric(), solver=solver)
    assert relative_error(scores, gi.aid(trace, problem.metric(), solver="gmres")) < 1e-8
    theta, sizes = trace.theta(), {t: len(problem.schedule(t).indices) for t in range(6, 9)}
    assert sum(sizes.values()) == len(problem.data)
    J = sum(size / 14 * jacobian(problem, theta, problem.ones, t) for t, size in sizes.items())
    operator = ShiftedField(Continuation(trace), theta, [6], 0.0)
    b = metric_gradient(problem, theta)[None]
    assert relative_error(solver.solve(operator, b).x, torch.linalg.solve(J.T, b.T).T) < 1e-8


def test_a_series_takes_its_batches_one_after_another():
    problem = minibatch_mlp(l2=(0.5, 0.5))
    trace = problem.train(6)
    operator, b = ShiftedField(Continuation(trace), trace.theta(), [6], 0.1), normal(7, 2, trace.game.size)
    w, total = b, b.clone()
    for t in range(6, 10):
        A = jacobian(problem, trace.theta(), problem.ones, t) + 0.1 * torch.eye(len(w.T)).double()
        w = w - 0.2 * w @ A
        total = total + w
    assert relative_error(Neumann(5, scale=0.2).solve(operator, b).x, 0.2 * total) < 1e-11
    assert not any(operator.repeats(m) for m in range(4))


# ------------------------------------------------------------------------------------------------ names and settings


@pytest.mark.bits
@pytest.mark.parametrize(
    ("options", "solver"),
    [
        ({}, Neumann()),
        ({"terms": 7, "scale": 0.05}, Neumann(7, scale=0.05)),
        ({"terms": [3, 60]}, Neumann([3, 60])),
        ({"terms": 5000, "tolerance": 1e-3}, Neumann(5000, tolerance=1e-3)),
        ({"solver": "gmres"}, GMRES()),
        ({"solver": "gmres", "terms": 50}, GMRES(50)),
    ],
)
@pytest.mark.parametrize("at", [None, [20, 5]])
def test_a_name_is_short_for_an_object(options, solver, at):
    problem = mlp(l2=(0.5, 0.5))
    trace, metric = problem.train(20), problem.metric()
    assert same_bits(gi.aid(trace, metric, at=at, **options), gi.aid(trace, metric, at=at, solver=solver))


def test_the_names_defaults_are_as_they_were():
    defaults = {name: one.default for name, one in inspect.signature(gi.aid).parameters.items()}
    assert defaults["terms"] == 1000
    assert (defaults["solver"], defaults["scale"], defaults["tolerance"]) == ("neumann", None, None)


BESIDES = {
    "terms": {"terms": 50},
    "the default terms": {"terms": 1000},
    "several terms": {"terms": [5, 50]},
    "scale": {"scale": 0.1},
    "tolerance": {"tolerance": 0.01},
    "all": {"terms": 50, "scale": 0.1, "tolerance": 0.01},
}


@pytest.mark.parametrize("solver", [Neumann(20), GMRES(), Dense()], ids=["neumann", "gmres", "of-ones-own"])
@pytest.mark.parametrize("besides", BESIDES.values(), ids=BESIDES)
def test_settings_besides_an_object_are_refused_and_sent_there(solver, besides):
    problem = lqgan()
    given = ", ".join(f"{name}={value!r}" for name, value in besides.items())
    message = rf"{re.escape(given)} besides solver={re.escape(repr(solver))}: .*Give them there"
    with pytest.raises(ValueError, match=message):
        gi.aid(problem.train(2), problem.metric(), solver=solver, **besides)


@pytest.mark.parametrize("solver", [None, 3, GMRES, Neumann, SimpleNamespace(), [Neumann()]])
def test_what_is_no_solver_is_told_the_known_ones(solver):
    problem = lqgan()
    message = (
        r"unknown solver .*; known solvers: neumann, gmres, cg, .*, or an object with solve\(operator, b, progress=\)"
    )
    with pytest.raises(ValueError, match=message):
        gi.aid(problem.train(2), problem.metric(), solver=solver)


REFUSED = [
    (lambda: Neumann(0), "terms must be a whole number >= 1, or several, got 0"),
    (lambda: Neumann([5, 2.5]), "terms must be a whole number >= 1, or several, got [5, 2.5]"),
    (lambda: Neumann([]), "terms must be a whole number >= 1, or several, got []"),
    (lambda: Neumann(True), "terms must be a whole number >= 1, or several, got True"),
    (lambda: Neumann(scale=0.0), "scale must be a finite number above 0, got 0.0"),
    (lambda: Neumann(scale=math.nan), "scale must be a finite number above 0, got nan"),
    (lambda: Neumann(tolerance=-1), "tolerance must be a finite number above 0, or None, got -1"),
    (lambda: Neumann([5, 9], tolerance=0.1), "tolerance=0.1 has no other ends: give one number of terms"),
    (lambda: GMRES(0), "products must be a whole number >= 1, the most that are made"),
    (lambda: GMRES([1, 2]), "products must be a whole number >= 1, the most that are made"),
    (lambda: GMRES(2.0), "products must be a whole number >= 1, the most that are made"),
    (lambda: GMRES(tolerance=math.inf), "tolerance must be a finite number above 0, or None, got inf"),
    (lambda: replace(GMRES(), tolerance=0), "tolerance must be a finite number above 0, or None, got 0"),
]


@pytest.mark.parametrize(("make", "message"), REFUSED)
def test_a_bad_setting_is_refused_when_the_solver_is_made(make, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        make()


@pytest.mark.parametrize("terms", [[3, 9], (3, 9), torch.tensor([3, 9]).numpy()])
def test_settings_are_compared_by_value(terms):
    assert Neumann(terms) == Neumann((3, 9))
    assert len({Neumann(terms), Neumann((3, 9)), GMRES(), GMRES(1000)}) == 2


@pytest.mark.parametrize(
    ("answer", "error", "message"),
    [
        (lambda b: b, TypeError, r"Own.solve must return a gi.solvers.Solution, got Tensor"),
        (lambda b: Solution(b[0], 1), ValueError, r"shape \(1, 4\), torch.float64 on cpu, got \(4,\)"),
        (lambda b: Solution(b[:, :3], 1), ValueError, r"shape \(1, 4\), .* got \(1, 3\), torch.float64"),
        (lambda b: Solution(b.float(), 1), ValueError, r"got \(1, 4\), torch.float32 on cpu"),
        (lambda b: Solution(b, 7, converged=False), gi.ConvergenceError, r"Own has not converged at step 2 after 7"),
        (lambda b: Solution(b * torch.nan, 1), gi.ConvergenceError, r"NaN or infinite"),
        (
            lambda b: Solution(b, 7, converged=torch.tensor([False])),
            gi.ConvergenceError,
            r"Own has not converged at step 2 after 7 products",
        ),
        (lambda b: Solution(b, 7, None, torch.tensor([False]), "why"), gi.ConvergenceError, r"^why$"),
        (lambda b: Solution(b * 0 + 1e308, 7), gi.ConvergenceError, r"overflowed at step 2: .* of size 1e\+308"),
    ],
)  # fmt: skip
def test_a_solver_of_ones_own_that_returns_no_solution_is_named(answer, error, message):
    class Own:
        def solve(self, operator, b, *, progress=False):
            return answer(b)

    problem = lqgan(data=1e3 * normal(1, 24, 1))
    with pytest.raises(error, match=message):
        gi.aid(problem.train(2, optimizer=gi.SGD(1e-9)), problem.metric(), solver=Own())


def test_a_solver_that_does_not_take_rows_of_several_matrices_is_given_one_stop_at_a_time():
    given = []

    class Own:
        def solve(self, operator, b, *, progress=False):
            given.append((operator.where(torch.ones(len(b), dtype=torch.bool)), b.shape))
            return Dense().solve(operator, b)

    class ByRows(Own):
        rowwise = True

        def solve(self, operator, b, *, progress=False):
            given.append((operator.where(torch.ones(len(b), dtype=torch.bool)), b.shape))
            return GMRES().solve(next(operator.apart()), b)

    problem = lqgan(l2=(0.5, 0.5))
    trace = problem.train(5)
    for solver in (Own(), ByRows()):
        gi.aid(trace, problem.metric(), solver=solver, at=[2, 5])
    assert given == [("step 2", (1, 4)), ("step 5", (1, 4)), ("step 2, 5", (2, 4))]


@pytest.mark.parametrize("solver", ["neumann", Neumann(60, scale=6.0)], ids=["name", "object"])
def test_a_series_that_diverges_warns_where_aid_is_called(solver):
    problem = lqgan(l2=(0.5, 0.5))
    trace, named = problem.train(5), {"terms": 60, "scale": 6.0} if solver == "neumann" else {}
    with pytest.warns(RuntimeWarning, match="does not converge at step 5") as caught:
        gi.aid(trace, problem.metric(), solver=solver, **named)
    assert [one.filename for one in caught] == [__file__]


def test_one_solver_serves_several_runs():
    solver, problem = GMRES(), mlp(l2=(0.5, 0.5))
    traces = [problem.train(steps) for steps in (5, 20)]
    for trace in (*traces, traces[0]):
        scores = gi.aid(trace, problem.metric(), solver=solver)
        assert relative_error(scores, dense_limit(problem, trace.theta())) < 1e-9
