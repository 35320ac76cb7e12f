"""Solvers and curvatures of one player: influence functions, against Hessians and Gauss-Newton matrices written out."""

import math
import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from types import SimpleNamespace

import pytest
import torch
from support.games import normal, relative_error, same_bits
from torch import nn

import gan_influence as gi
from gan_influence.curvature import Continuation, ShiftedField
from gan_influence.gauss_newton import curved
from gan_influence.solvers import CG, GMRES, LiSSA, Momentum, NormalEquations
from gan_influence.solvers.spectrum import asymmetry, ends

N, STEPS = 18, 30
FULL = gi.FullBatch()
INPUTS, TEST_INPUTS = normal(400, N, 3), normal(401, 5, 3)


def squared(outputs, targets):
    return ((outputs - targets) ** 2).sum(1) / 2


def log_loss(outputs, targets):
    return outputs.exp().sum(1).log() - outputs[torch.arange(len(targets)), targets]


def logistic(outputs, targets):
    return (1 + (-(2.0 * targets - 1) * outputs[:, 0]).exp()).log()


def huber(outputs, targets):
    return (1 + ((outputs - targets) ** 2).sum(1)).sqrt()


LOSSES = {  # outputs, cost by hand, loss of the library, targets
    "squared-error": (2, squared, "squared_error", lambda x: x[:, :2].sin()),
    "cross-entropy": (3, log_loss, "cross_entropy", lambda x: x.argmax(1)),
    "binary-cross-entropy": (1, logistic, "binary_cross_entropy", lambda x: (x.sum(1) > 0).long()),
    "ones-own": (2, huber, huber, lambda x: x[:, 1:] ** 2),
}


@dataclass(frozen=True)
class Task:
    """A perceptron with its pairs, and its outputs and costs once more as functions of a flat vector."""

    kind: str = "cross-entropy"
    hidden: int = 3
    l2: float = 0.05
    size: float = 1.0
    schedule: Callable[[int], gi.Batch] = FULL

    def but(self, **changes):
        return replace(self, **changes)

    @property
    def targets(self):
        return LOSSES[self.kind][3](INPUTS)

    def train(self, **options):
        outputs, _, loss, _ = LOSSES[self.kind]
        model = nn.Sequential(nn.Linear(3, self.hidden), nn.Tanh(), nn.Linear(self.hidden, outputs)).double()
        for k, parameter in enumerate(model.parameters()):
            parameter.data = 0.8 * normal(500 + k, *parameter.shape)
        game = gi.Game(None, model, loss=loss, l2=self.l2)
        data = self.size * INPUTS, self.targets
        return gi.train(game, data, self.schedule, STEPS, gi.SGD(0.2 / self.size**2), **options)

    def metric(self, each=True):
        return gi.metrics.AverageLoss(self.size * TEST_INPUTS, LOSSES[self.kind][3](TEST_INPUTS), each=each)

    def outputs(self, theta, x):
        h, k = self.hidden, LOSSES[self.kind][0]
        first, b1, second, b2 = theta.split([3 * h, h, h * k, k])
        return torch.tanh(self.size * x @ first.view(h, 3).T + b1) @ second.view(k, h).T + b2

    def costs(self, theta, x=INPUTS):
        return LOSSES[self.kind][1](self.outputs(theta, x), LOSSES[self.kind][3](x))

    def hessian(self, theta, rows=slice(None)):
        ones = torch.eye(len(theta)).double()
        of_mean = torch.autograd.functional.hessian(lambda at: self.costs(at)[rows].mean(), theta)
        return of_mean + self.l2 * ones

    def gauss_newton(self, theta, rows=slice(None), weights=None):
        """``mean_i w_i J_i^T (Hessian of the cost in the outputs) J_i + l2 I``."""
        cost, x, y = LOSSES[self.kind][1], INPUTS[rows], self.targets[rows]
        slopes = torch.autograd.functional.jacobian(lambda at: self.outputs(at, x), theta)
        outputs = self.outputs(theta, x)
        total = torch.zeros(len(theta), len(theta)).double()
        for i in range(len(x)):
            of_cost = torch.autograd.functional.hessian(
                lambda out, i=i: cost(out[None], y[i : i + 1]).sum(), outputs[i]
            )
            total += (1.0 if weights is None else weights[i]) * slopes[i].T @ of_cost @ slopes[i] / len(x)
        return total + self.l2 * torch.eye(len(theta)).double()

    def matrix(self, curvature, theta, damping=0.0):
        dense = {"hessian": self.hessian, "gauss_newton": self.gauss_newton}[curvature](theta)
        return dense + damping * torch.eye(len(theta)).double()


each_kind = pytest.mark.parametrize("kind", LOSSES)
each_curvature = pytest.mark.parametrize("curvature", ["hessian", "gauss_newton"])


def operator_of(trace, curvature="hessian", damping=0.0):
    theta = trace.theta()
    game = curved(trace, curvature, theta[None])
    return ShiftedField(Continuation(trace), theta, [trace.steps], damping, game)


def definite(task, theta, above=0.05):
    """Damping that makes the Hessian's least eigenvalue this."""
    return above - min(float(torch.linalg.eigvalsh(task.hessian(theta))[0]), 0.0)


# ------------------------------------------------------------------------------------------------------- curvature


@each_kind
@pytest.mark.parametrize("schedule", [FULL, gi.Minibatches(N, 6, seed=3)], ids=["full", "minibatches"])
def test_gauss_newton_products_are_those_with_the_matrix_written_out(kind, schedule):
    task = Task(kind, schedule=schedule)  # 30 steps are ten epochs
    trace = task.train()
    operator = operator_of(trace, "gauss_newton", 0.3)
    G = task.matrix("gauss_newton", trace.theta(), 0.3)
    assert relative_error(G, task.matrix("hessian", trace.theta(), 0.3)) > 0.01
    vectors = normal(7, 4, len(G))
    for given in (vectors, vectors[:1], vectors[0]):
        assert relative_error(operator.transpose_product(given), given @ G) < 1e-11
        assert relative_error(operator.product(given), given @ G) < 1e-11


@each_kind
def test_hessian_products_are_those_with_the_matrix_written_out(kind):
    task = Task(kind)
    trace = task.train()
    H, vectors = task.hessian(trace.theta()), normal(7, 4, trace.game.size)
    assert relative_error(operator_of(trace).transpose_product(vectors), vectors @ H) < 1e-11


def test_a_step_with_a_fresh_batch_has_that_batchs_gauss_newton_matrix():
    task = Task(schedule=gi.Minibatches(N, 6, seed=3))
    trace = task.train()
    operator, w = operator_of(trace, "gauss_newton", 0.2), normal(7, 2, trace.game.size)
    eta = torch.linspace(0.1, 0.2, trace.game.size).double()
    for m in range(3):
        rows = task.schedule(STEPS + m).indices
        G = task.gauss_newton(trace.theta(), rows) + 0.2 * torch.eye(len(eta)).double()
        assert relative_error(operator.transpose_step(m, w, eta), w - (eta * w) @ G) < 1e-11


def test_removed_rows_are_not_in_the_gauss_newton_matrix():
    task = Task()
    trace = gi.retrain(task.train(), [2, 11])
    weights = torch.ones(N).double().index_fill(0, torch.tensor([2, 11]), 0.0)
    G = task.gauss_newton(trace.theta(), weights=weights)
    products = operator_of(trace, "gauss_newton").transpose_product(torch.eye(len(G)).double())
    assert relative_error(products, G) < 1e-11


def test_of_a_linear_model_the_hessian_is_gauss_newtons():
    model = nn.Linear(3, 3).double()
    trace = gi.train(
        gi.Game(None, model, loss="cross_entropy", l2=0.1), (INPUTS, INPUTS.argmax(1)), FULL, 5, gi.SGD(0.1)
    )
    products = [
        operator_of(trace, kind).transpose_product(torch.eye(12).double()) for kind in ("hessian", "gauss_newton")
    ]
    assert relative_error(*products) < 1e-12


class Normed(nn.Module):
    def __init__(self):
        super().__init__()
        self.norm, self.first, self.second = nn.BatchNorm1d(3), nn.Linear(3, 2), nn.Linear(2, 1)

    def forward(self, x):
        return self.second(torch.tanh(self.first(self.norm(x))))


def test_batch_statistics_are_in_the_tangent_and_running_ones_stay():
    torch.manual_seed(3)
    model = Normed().double()
    game = gi.Game(None, model, loss="squared_error", rows_interact=True)
    trace = gi.train(game, (INPUTS, INPUTS[:, :1] ** 2), gi.FullBatch(), 4, gi.SGD(0.1))
    theta, before = trace.theta(), {name: value.clone() for name, value in trace.held().items()}

    def outputs(at):
        gain, offset, w1, b1, w2, b2 = at.split([3, 3, 6, 2, 2, 1])
        x = (INPUTS - INPUTS.mean(0)) / (INPUTS.var(0, correction=0) + 1e-5).sqrt() * gain + offset
        return (torch.tanh(x @ w1.view(2, 3).T + b1) @ w2.view(1, 2).T + b2)[:, 0]

    slopes = torch.autograd.functional.jacobian(outputs, theta)
    products = operator_of(trace, "gauss_newton").transpose_product(torch.eye(len(theta)).double())
    assert relative_error(products, slopes.T @ slopes / N) < 1e-10
    assert before
    assert all(same_bits(trace.held()[name], value) for name, value in before.items())


@each_kind
@each_curvature
def test_aid_is_the_influence_function_with_either_curvature(kind, curvature):
    task = Task(kind)
    trace = task.train()
    theta = trace.theta()
    damping = definite(task, theta)
    scores = gi.aid(trace, task.metric(), solver="cg", damping=damping, curvature=curvature)
    of_rows = torch.autograd.functional.jacobian(task.costs, theta)
    of_tests = torch.autograd.functional.jacobian(lambda at: task.costs(at, TEST_INPUTS), theta)
    expected = of_tests @ torch.linalg.solve(task.matrix(curvature, theta, damping), of_rows.T) / N
    assert scores.shape == (len(TEST_INPUTS), N)
    assert relative_error(scores, expected) < 1e-9


def test_stopping_times_have_their_own_gauss_newton_matrix():
    task = Task()
    trace = task.train()
    for metric in (task.metric(each=False), task.metric()):
        scores = gi.aid(trace, metric, solver="cg", curvature="gauss_newton", at=[10, STEPS])
        series = gi.aid(trace, metric, 5000, scale=0.5, curvature="gauss_newton", at=[10, STEPS])
        assert relative_error(scores, series) < 1e-9
        ends = gi.aid(trace, metric, solver="cg", curvature="gauss_newton")
        assert relative_error(scores[..., -1, :], ends) < 1e-9
        assert relative_error(scores[..., 0, :], ends) > 0.01


def wavy(outputs, targets):
    return (outputs[:, 0] - targets).cos()


def test_a_loss_that_is_not_convex_in_the_outputs_has_no_gauss_newton_curvature():
    targets = torch.full((N,), math.pi).double()
    targets[7] = 0.0  # of all rows this one is at the cosine's top
    model = nn.Linear(3, 1).double()
    for parameter in model.parameters():
        nn.init.zeros_(parameter)
    trace = gi.train(gi.Game(None, model, loss=wavy), (INPUTS, targets), FULL, 0, gi.SGD(0.1))
    metric = gi.metrics.AverageLoss(INPUTS, targets)
    with pytest.raises(
        ValueError, match="outputs, but at those of row 7 its curvature is -1: take curvature='hessian'"
    ):
        gi.aid(trace, metric, curvature="gauss_newton", solver="cg")


def test_a_curvature_that_there_is_not_is_refused():
    task = Task()
    trace = task.train()
    with pytest.raises(ValueError, match="curvature must be one of hessian, gauss_newton, got 'fisher'"):
        gi.aid(trace, task.metric(), curvature="fisher")
    for curvature in ("hessian", "gauss_newton"):
        with pytest.raises(ValueError, match=r"damping must be a finite number >= 0, got -0\.1"):
            gi.aid(trace, task.metric(), solver="cg", damping=-0.1, curvature=curvature)
    gan = gi.Game(*gi.models.lqgan(seed=0))
    trace = gi.train(gan, normal(1, 9, 1), gi.FullBatch(normal(2, 9, 1)), 2, gi.SGD(0.1))
    metric = gi.metrics.AverageLogLikelihood(normal(3, 9, 1), normal(4, 9, 1))
    with pytest.raises(ValueError, match="this game, of generator, discriminator, has a cost of its own: take"):
        gi.aid(trace, metric, solver="cg", curvature="gauss_newton")


# --------------------------------------------------------------------------------------------------------- solutions

SOLVERS = {
    "cg": CG(),
    "cg-within": CG(tolerance=1e-9),
    "normal-equations": NormalEquations(),
    "normal-equations-within": NormalEquations(tolerance=1e-9),
    "lissa": LiSSA(tolerance=1e-10),
    "momentum": Momentum(5000, rate=None, tolerance=1e-10),
    "momentum-from-zero": Momentum(5000, rate=0.3, start="zero", tolerance=1e-10),
    "momentum-without": Momentum(5000, rate=None, momentum=0.0, tolerance=1e-10),
}
each_solver = pytest.mark.parametrize("solver", SOLVERS.values(), ids=SOLVERS)


@each_solver
@each_curvature
def test_the_solution_is_the_dense_one(solver, curvature):
    task = Task()
    trace = task.train()
    damping = definite(task, trace.theta())
    operator, A = operator_of(trace, curvature, damping), task.matrix(curvature, trace.theta(), damping)
    b = normal(5, 4, len(A)) * torch.tensor([[1.0], [1e-3], [30.0], [0.0]]).double()
    kept = b.clone()
    found = solver.solve(operator, b)
    exact = torch.linalg.solve(A, b.T).T
    for x, one in zip(found.x[:3], exact[:3], strict=True):
        assert relative_error(x, one) < 1e-8
    assert not found.x[3].any()
    assert same_bits(b, kept)
    assert found.converged.all()
    assert found.told == ""
    torch.testing.assert_close(
        found.residual[:3], (found.x @ A - b)[:3].norm(dim=1) / b[:3].norm(dim=1), atol=1e-12, rtol=1e-3
    )


@each_solver
def test_many_points_take_no_more_products_than_the_one_that_takes_most(solver):
    task = Task()
    trace = task.train()
    operator = operator_of(trace, "gauss_newton")
    b = normal(6, 5, trace.game.size)
    together, alone = solver.solve(operator, b), [solver.solve(operator, one[None]) for one in b]
    assert together.products <= max(one.products for one in alone) + 8
    for x, one in zip(together.x, alone, strict=True):
        assert relative_error(x, one.x[0]) < 1e-7


@each_solver
def test_single_precision_is_solved_as_far_as_it_goes(solver):
    model = nn.Linear(3, 3)
    nn.init.zeros_(model.weight)
    nn.init.zeros_(model.bias)
    data = INPUTS.float(), INPUTS.argmax(1)
    trace = gi.train(gi.Game(None, model, loss="cross_entropy", l2=0.1), data, FULL, 5, gi.SGD(0.1))
    operator, b = operator_of(trace), normal(5, 2, 12).float()
    if solver.tolerance is not None:
        solver = replace(solver, tolerance=1e-5)
    found = solver.solve(operator, b)
    A = operator.transpose_product(torch.eye(12)).double()
    assert found.x.dtype == torch.float32
    assert found.converged.all()
    assert relative_error(found.x.double(), torch.linalg.solve(A, b.double().T).T) < 1e-4


def test_conjugate_gradients_end_after_as_many_products_as_there_are_eigenvalues():
    model = nn.Linear(3, 1, bias=False).double()
    trace = gi.train(gi.Game(None, model, loss="squared_error", l2=0.1), (INPUTS, INPUTS[:, :1]), FULL, 2, gi.SGD(0.1))
    found = CG().solve(operator_of(trace), normal(5, 40, 3))
    assert found.converged.all()
    assert found.products <= 3 + 3  # and two to be sure of symmetry and residual, and one for rounding


# --------------------------------------------------------------------------------------- recursions, written out


def batches(task, count, damping):
    """Dense matrices of the batches after the run's end."""
    theta = task.train().theta()
    eye = damping * torch.eye(len(theta)).double()
    rows = [task.schedule(STEPS + m).indices for m in range(count)]
    return [task.hessian(theta, slice(None) if one is None else one) + eye for one in rows]


def test_lissa_is_koh_and_liangs_recursion_averaged_over_repeats():
    task, scale, dampens, depth = Task(schedule=gi.Minibatches(N, 6, seed=3)), 5.0, 0.02, 7
    operator, v = operator_of(task.train(), damping=dampens * scale), normal(5, 2, task.train().game.size)
    fresh, found = iter(batches(task, 3 * depth, 0.0)), []
    for _ in range(3):
        h = v
        for _ in range(depth):
            h = v + (1 - dampens) * h - h @ next(fresh) / scale
        found.append(h / scale)
    solver = LiSSA(scale, depth, repeats=3, minibatches=True, tolerance=None)
    with pytest.warns(
        RuntimeWarning, match=r"LiSSA left a relative residual of .* with scale=5 after 21 steps at step 30"
    ):
        solution = solver.solve(operator, v)
    assert relative_error(solution.x, sum(found) / 3) < 1e-11
    assert solution.converged is None
    assert solution.products == 3 * depth + 1


@pytest.mark.filterwarnings("ignore:gradient descent left a relative residual")
@pytest.mark.parametrize("start", ["b", "zero"])
@pytest.mark.parametrize("minibatches", [False, True])
def test_momentum_is_torchs_sgd_on_the_quadratic(start, minibatches):
    task, steps = Task(schedule=gi.Minibatches(N, 6, seed=3) if minibatches else FULL), 15
    operator, b = operator_of(task.train(), damping=0.3), normal(5, 1, task.train().game.size)
    x = (b[0].clone() if start == "b" else torch.zeros_like(b[0])).requires_grad_()
    descent = torch.optim.SGD([x], lr=0.05, momentum=0.9)
    for A in batches(task, steps, 0.3):
        descent.zero_grad()
        (x @ A @ x / 2 - b[0] @ x).backward()
        descent.step()
    found = Momentum(steps, rate=0.05, start=start, minibatches=minibatches).solve(operator, b)
    assert relative_error(found.x[0], x.detach()) < 1e-11
    assert found.products == steps + 1


def test_minibatches_come_nearer_with_repeats_and_say_what_they_leave():
    task = Task(schedule=gi.Minibatches(N, 6, seed=3))
    operator, b = operator_of(task.train(), "gauss_newton", 0.2), normal(5, 2, task.train().game.size)
    found = [LiSSA(8.0, 200, repeats, True, 0.5).solve(operator, b) for repeats in (1, 16)]
    assert all(one.converged.all() for one in found)
    assert found[1].residual.max() < 0.6 * found[0].residual.max()
    strict = LiSSA(minibatches=True).solve(operator, b)
    assert not strict.converged.any()
    assert re.search(
        r"relative residual of .* with scale=.*, not 1e-06: minibatches leave noise: take more", strict.told
    )


# ----------------------------------------------------------------------------------- what has no solution, or not yet


def test_lissa_with_the_papers_settings_diverges_says_which_scale_would_do_and_without_any_does():
    task = Task("squared-error", size=8.0, schedule=gi.Minibatches(N, 6, seed=3))
    trace = task.train()
    theta = trace.theta()
    damping = definite(task, theta, 0.5)
    dense = task.hessian(theta) + damping * torch.eye(len(theta)).double()
    largest = float(torch.linalg.eigvalsh(dense)[-1])
    assert largest > 20  # twice the scale of Koh and Liang's code
    koh_and_liang = LiSSA(scale=10, depth=10_000, minibatches=True, tolerance=None)
    with pytest.raises(gi.ConvergenceError, match="LiSSA diverged with scale=10 after") as caught:
        gi.aid(trace, task.metric(), solver=koh_and_liang, damping=damping)
    told = re.search(
        r"largest curvature met is ([\d.]+): the scale must be above ([\d.]+), and scale=([\d.]+) would",
        str(caught.value),
    )
    met, above, would_do = map(float, told.groups())
    assert met > 0.9 * largest  # batches have larger ones than their mean
    assert above == pytest.approx(met / 2, rel=0.01)
    with pytest.warns(RuntimeWarning, match=f"LiSSA left .* with scale={would_do:g}") as left:
        gi.aid(trace, task.metric(), solver=LiSSA(would_do, 300, minibatches=True, tolerance=None), damping=damping)
    assert float(re.search("residual of (.*) with", str(left[0].message))[1]) < 1.5
    operator, b = operator_of(trace, damping=damping), normal(5, 2, len(theta))
    mended = LiSSA().solve(operator, b)
    assert mended.converged.all()
    assert relative_error(mended.x, torch.linalg.solve(dense, b.T).T) < 1e-4


@pytest.mark.parametrize(
    ("solver", "setting"),
    [(LiSSA(0.1), "scale"), (Momentum(rate=9.0), "rate"), (Momentum(rate=9.0, tolerance=1e-6), "rate")],
)
def test_a_step_that_is_too_large_is_told_the_one_that_would_do(solver, setting):
    task = Task()
    trace = task.train()
    operator, b = operator_of(trace, "gauss_newton"), normal(5, 2, trace.game.size)
    found = solver.solve(operator, b)
    assert not found.converged.any()
    assert "diverged with" in found.told
    would_do = float(re.search(rf"and {setting}=([\d.]+) would do", found.told)[1])
    again = replace(solver, **{setting: would_do}, tolerance=1e-6)
    again = replace(again, steps=5000) if setting == "rate" else again
    assert again.solve(operator, b).converged.all()


RANGE = r"The curvature goes from (\S+) to (\S+), and with a negative one no setting does"
INDEFINITE = {
    "cg": (
        CG(),
        r"a positive definite curvature, but found one of (\S+) along a direction .*, and the least is (\S+):",
    ),
    "lissa": (LiSSA(), rf"LiSSA diverged with scale=.*{RANGE}"),
    "momentum": (Momentum(5000, tolerance=1e-6), rf"gradient descent diverged .*{RANGE}"),
}


@pytest.mark.parametrize(("solver", "message"), INDEFINITE.values(), ids=INDEFINITE)
def test_an_indefinite_hessian_is_refused_with_its_curvature_and_the_damping_that_mends_it(solver, message):
    task = Task(l2=0.0)
    trace = task.train()
    eigenvalues = torch.linalg.eigvalsh(task.hessian(trace.theta()))
    assert eigenvalues[0] < -0.005
    with pytest.raises(gi.ConvergenceError, match=message) as caught:
        gi.aid(trace, task.metric(), solver=solver)
    first, second = map(float, re.search(message, str(caught.value)).groups())
    if isinstance(solver, CG):
        assert float(eigenvalues[0]) * 1.01 <= first <= 0
        assert second == pytest.approx(float(eigenvalues[0]), rel=0.01)
    else:
        assert first == pytest.approx(float(eigenvalues[0]), rel=0.01)
        assert second == pytest.approx(float(eigenvalues[-1]), rel=0.01)
    above = float(re.search(r"add damping above ([\d.e-]+), take curvature='gauss_newton'", str(caught.value))[1])
    scores = gi.aid(trace, task.metric(), solver="cg", damping=1.05 * above)
    assert relative_error(scores, gi.aid(trace, task.metric(), solver="gmres", damping=1.05 * above)) < 1e-6
    indefinite = gi.aid(trace, task.metric(), solver="normal_equations")
    assert relative_error(indefinite, gi.aid(trace, task.metric(), solver="gmres")) < 1e-7


@pytest.mark.parametrize("d", [40, 400])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_the_ends_of_the_spectrum_are_found_of_few_parameters_and_of_many(d, dtype):
    eigenvalues = torch.linspace(-0.5, 3.0, d, dtype=dtype)
    turned = torch.linalg.qr(normal(8, d, d)).Q.to(dtype)
    A = turned @ torch.diag(eigenvalues) @ turned.T
    operator = SimpleNamespace(transpose_product=lambda c: c @ A, where=lambda rows: "here")
    assert ends(operator, A[0]) == pytest.approx((-0.5, 3.0), rel=0.02)
    assert asymmetry(operator, A[0]) is None
    with pytest.raises(gi.ConvergenceError, match=r"along a direction at here, and the least is -0\.(5|49)"):
        CG().solve(operator, A[:2])


def test_conjugate_gradients_refuse_a_game_of_two_players():
    trace = gi.train(
        gi.Game(*gi.models.lqgan(seed=0), l2=(0.5, 0.5)), normal(1, 9, 1), gi.FullBatch(normal(2, 9, 1)), 5, gi.SGD(0.1)
    )
    metric = gi.metrics.AverageLogLikelihood(normal(3, 9, 1), normal(4, 9, 1))
    with pytest.raises(
        gi.ConvergenceError, match=r"symmetric curvature, but at step 5 <u, A v> is .* take solver='gmres'"
    ):
        gi.aid(trace, metric, solver="cg")
    with pytest.raises(gi.ConvergenceError, match=r"diverged .* For <u, A v> is .* take solver='gmres'"):
        gi.aid(trace, metric, solver=LiSSA(0.01))
    expected = gi.aid(trace, metric, solver="gmres")
    assert relative_error(gi.aid(trace, metric, solver="normal_equations"), expected) < 1e-8


MISSED = {
    "cg": (CG(4), r"CG left a relative residual of \S+ after 4 products at step 30, where it met curvatures from"),
    "normal-equations": (NormalEquations(6), r"equations left .* at step 30, of a matrix whose condition number is"),
    "lissa": (LiSSA(depth=30), r"LiSSA left a relative residual of \S+ with scale=\S+ after 30 steps at .*, not 1e-06"),
    "momentum": (
        Momentum(30, tolerance=1e-6),
        r"descent left a relative residual of \S+ with rate=0.01 after 30 steps",
    ),
}


@pytest.mark.parametrize(("solver", "message"), MISSED.values(), ids=MISSED)
def test_a_solver_that_is_not_given_enough_products_says_what_is_left(solver, message):
    task = Task(l2=1e-4)
    trace = task.train()
    with pytest.raises(gi.ConvergenceError, match=message):
        gi.aid(trace, task.metric(), solver=solver, curvature="gauss_newton")


def test_of_a_singular_matrix_normal_equations_give_no_solution_that_is_none():
    model = nn.Linear(3, 3, bias=False).double()  # softmax without l2: a shift of all outputs changes no cost
    trace = gi.train(gi.Game(None, model, loss="cross_entropy"), (INPUTS, INPUTS.argmax(1)), FULL, 2, gi.SGD(0.1))
    found = NormalEquations().solve(operator_of(trace), normal(5, 1, 9))
    assert not found.converged.any()
    assert "whose condition number is about" in found.told
    metric = gi.metrics.AverageLoss(TEST_INPUTS, TEST_INPUTS.argmax(1))  # but its gradients do not point there
    scores = [gi.aid(trace, metric, solver=solver, tolerance=1e-10) for solver in ("cg", "normal_equations")]
    assert relative_error(*scores) < 1e-6


def test_a_descent_that_is_cut_off_far_from_the_solution_warns_where_aid_is_called():
    task = Task()
    with pytest.warns(
        RuntimeWarning, match="gradient descent left a relative residual of .* Give tolerance="
    ) as caught:
        gi.aid(task.train(), task.metric(), solver="momentum")
    assert [one.filename for one in caught] == [__file__]


@pytest.mark.parametrize("solver", [CG, GMRES, NormalEquations, LiSSA, lambda tolerance: Momentum(tolerance=tolerance)])
def test_a_tolerance_below_rounding_is_refused(solver):
    task = Task()
    trace = task.train()
    with pytest.raises(
        ValueError, match=r"tolerance=1e-20 cannot be met in float64, which rounds by 2\.2e-16: give one of 2e-13"
    ):
        gi.aid(trace, task.metric(), solver=solver(tolerance=1e-20))


# ---------------------------------------------------------------------------------------------------- names, settings


@pytest.mark.bits
@pytest.mark.parametrize(
    ("options", "solver"),
    [
        ({"solver": "cg"}, CG()),
        ({"solver": "cg", "terms": 50, "tolerance": 1e-3}, CG(50, 1e-3)),
        ({"solver": "normal_equations", "terms": 300}, NormalEquations(300)),
        ({"solver": "lissa"}, LiSSA()),
        ({"solver": "lissa", "terms": 300, "tolerance": 0.1}, LiSSA(depth=300, tolerance=0.1)),
        ({"solver": "momentum", "terms": 2000, "tolerance": 1e-2}, Momentum(2000, tolerance=1e-2)),
    ],
)
def test_a_name_is_short_for_an_object(options, solver):
    task = Task()
    trace = task.train()
    named = gi.aid(trace, task.metric(), curvature="gauss_newton", **options)
    assert same_bits(named, gi.aid(trace, task.metric(), curvature="gauss_newton", solver=solver))


def test_settings_of_the_series_are_refused_for_other_names():
    task = Task()
    trace = task.train()
    with pytest.raises(
        ValueError, match=r"scale=0\.1 is eta of TNNLS eq\. 11, which solver='lissa' .*gi\.solvers\.LiSSA\(\)"
    ):
        gi.aid(trace, task.metric(), solver="lissa", scale=0.1)
    with pytest.raises(ValueError, match="CG has no partial sums to read off: give one number of terms"):
        gi.aid(trace, task.metric(), [5, 50], solver="cg")


REFUSED = [
    (lambda: CG(0), "products must be a whole number >= 1, got 0"),
    (lambda: CG(tolerance=0), "tolerance must be a finite number above 0, or None, got 0"),
    (lambda: NormalEquations(1), "products must be a whole number >= 2, two an iteration, got 1"),
    (lambda: LiSSA(-1.0), "scale must be a finite number above 0, got -1.0"),
    (lambda: LiSSA(depth=0), "depth must be a whole number >= 1, got 0"),
    (lambda: LiSSA(repeats=0), "repeats must be a whole number >= 1, got 0"),
    (lambda: LiSSA(repeats=2), "repeats=2 of steps that all see the same rows would all be the same: give minibatches"),
    (lambda: LiSSA(tolerance=None), "without tolerance= there is no end to find: give depth="),
    (lambda: Momentum(0), "steps must be a whole number >= 1, got 0"),
    (lambda: Momentum(rate=0.0), "rate must be a finite number above 0, got 0.0"),
    (lambda: Momentum(momentum=1.0), "momentum must be a number >= 0 and below 1, got 1.0"),
    (lambda: Momentum(start="u"), "start must be one of b, zero, got 'u'"),
    (lambda: Momentum(tolerance=-1), "tolerance must be a finite number above 0, or None, got -1"),
]


@pytest.mark.parametrize(("make", "message"), REFUSED)
def test_a_bad_setting_is_refused_when_the_solver_is_made(make, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        make()


def test_a_schedule_that_ends_too_soon_for_minibatches_is_told_before_the_first_step():
    schedule = [gi.Batch(torch.arange(6) + 6 * (t % 3)) for t in range(STEPS + 10)]
    task = Task(schedule=schedule)
    trace = task.train()
    for solver in (LiSSA(5.0, 20, minibatches=True), Momentum(20, minibatches=True)):
        with pytest.raises(ValueError, match="the schedule gives no batch of step 49"):
            gi.aid(trace, task.metric(), solver=solver)
