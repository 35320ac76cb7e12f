"""Supervised training as a game of one player: ITD is SGD-influence, AID the influence function.

Checked against Hara et al. (2019) and Koh and Liang (2017) written out with dense Hessians, against autograd through
the run, finite differences, retraining, and captum's influence functions.
"""

import math
import warnings
from collections.abc import Callable
from dataclasses import dataclass, replace

import pytest
import torch
from support.games import normal, relative_error, same_bits
from torch import Tensor, nn
from torch.func import functional_call

import gan_influence as gi
from gan_influence.counterfactual import counterfactuals
from gan_influence.metrics import AverageLoss


@dataclass(frozen=True)
class Task:
    """A model with its pairs, and its per-row costs once more as a function of a flat vector."""

    model: nn.Module
    outputs: Callable[[Tensor, Tensor], Tensor]
    cost: Callable[[Tensor, Tensor], Tensor]
    loss: object
    inputs: Tensor
    targets: Tensor
    test: tuple[Tensor, Tensor]
    schedule: Callable[[int], gi.Batch]
    l2: float = 0.2
    l2_by_row: bool = False

    def but(self, **changes) -> "Task":
        return replace(self, **changes)

    def train(self, steps, optimizer=None, **options) -> gi.Trace:
        game = gi.Game(None, self.model, loss=self.loss, l2=self.l2, l2_by_row=self.l2_by_row)
        optimizer = optimizer or gi.SGD(0.3)
        return gi.train(game, (self.inputs, self.targets), self.schedule, steps, optimizer, **options)

    def start(self) -> Tensor:
        return torch.cat([p.detach().reshape(-1) for p in self.model.parameters()])

    def metric(self) -> AverageLoss:
        return AverageLoss(*self.test)

    def test_loss(self, psi) -> Tensor:
        return self.cost(self.outputs(psi, self.test[0]), self.test[1]).mean()

    def batch(self, t) -> list[int]:
        indices = self.schedule(t).indices
        return list(range(len(self.inputs))) if indices is None else indices.tolist()

    def objective(self, psi, weights, t) -> Tensor:
        rows = self.batch(t)
        costs = self.cost(self.outputs(psi, self.inputs[rows]), self.targets[rows])
        penalty = self.l2 / 2 * psi @ psi
        if self.l2_by_row:
            return (weights[rows] * (costs + penalty)).sum() / len(rows)
        return (weights[rows] * costs).sum() / len(rows) + penalty

    def row_gradient(self, psi, j) -> Tensor:
        at = psi.detach().clone().requires_grad_()
        cost = self.cost(self.outputs(at, self.inputs[j : j + 1]), self.targets[j : j + 1]).sum()
        share = self.l2 / 2 * at @ at if self.l2_by_row else 0
        return torch.autograd.grad(cost + share, at)[0]

    def test_gradient(self, psi) -> Tensor:
        at = psi.detach().clone().requires_grad_()
        return torch.autograd.grad(self.test_loss(at), at)[0]

    def hessian(self, psi, t=0) -> Tensor:
        ones = torch.ones(len(self.inputs), dtype=torch.float64)
        return torch.autograd.functional.hessian(lambda at: self.objective(at, ones, t), psi.detach())


def perceptron(outputs):
    module = nn.Sequential(nn.Linear(2, 3), nn.Tanh(), nn.Linear(3, outputs)).double()
    for k, parameter in enumerate(module.parameters()):
        parameter.data = 0.8 * normal(200 + k, *parameter.shape)

    def by_hand(psi, x):
        first, b1, second, b2 = psi.split([6, 3, 3 * outputs, outputs])
        return torch.tanh(x @ first.view(3, 2).T + b1) @ second.view(outputs, 3).T + b2

    return module, by_hand


def squared(outputs, targets):
    return ((outputs - targets) ** 2).sum(1) / 2


def log_loss(outputs, targets):
    return outputs.exp().sum(1).log() - outputs[torch.arange(len(targets)), targets]


def logistic(outputs, targets):
    return (1 + (-(2.0 * targets - 1) * outputs[:, 0]).exp()).log()


def huber(outputs, targets):
    return (1 + (outputs - targets)[:, 0] ** 2).sqrt()


N = 14
INPUTS, TEST_INPUTS = normal(300, N, 2), normal(301, 9, 2)
NOISE, TEST_NOISE = normal(302, N, 2), normal(303, 9, 2)
KINDS = {  # outputs, cost by hand, loss of the library, targets of inputs and noise
    "squared-error": (2, squared, "squared_error", lambda x, noise: x.flip(1).sin() + 0.3 * noise),
    "cross-entropy": (3, log_loss, "cross_entropy", lambda x, noise: (x + noise).argmax(1) + (x[:, 0] > 0.3).long()),
    "binary-cross-entropy": (1, logistic, "binary_cross_entropy", lambda x, noise: (x + noise).sum(1).gt(0).long()),
    "ones-own": (1, huber, huber, lambda x, noise: (x + 0.3 * noise)[:, :1]),
}


def task(kind, **changes) -> Task:
    outputs, cost, loss, targets = KINDS[kind]
    model, by_hand = perceptron(outputs)
    test = TEST_INPUTS, targets(TEST_INPUTS, TEST_NOISE)
    schedule = gi.Minibatches(N, 5, seed=3)
    return Task(model, by_hand, cost, loss, INPUTS, targets(INPUTS, NOISE), test, schedule).but(**changes)


each_kind = pytest.mark.parametrize("kind", KINDS)


def gradient_descent(task, weights, steps, lr=0.3, momentum=0.0):
    """``psi_0 ... psi_T``, each a differentiable function of the weights."""
    psi, velocity = task.start().requires_grad_(), 0
    run = [psi]
    for t in range(steps):
        (gradient,) = torch.autograd.grad(task.objective(psi, weights, t), psi, create_graph=True)
        velocity = momentum * velocity + gradient
        psi = psi - lr * velocity
        run.append(psi)
    return run


# ------------------------------------------------------------------------------------------------------------- ITD


@each_kind
@pytest.mark.parametrize("momentum", [0.0, 0.9])
def test_training_and_itd_equal_the_hand_written_run_and_its_gradient(kind, momentum):
    of = task(kind)
    weights = torch.ones(N, dtype=torch.float64, requires_grad=True)
    run = gradient_descent(of, weights, 7, 0.1, momentum)
    trace = of.train(7, gi.SGD(0.1, momentum=momentum))
    assert relative_error(trace.states[:, 0], torch.stack(run).detach()) < 1e-13
    expected = -torch.autograd.grad(of.test_loss(run[-1]), weights)[0]
    assert relative_error(gi.itd(trace, of.metric()), expected) < 1e-11


@each_kind
@pytest.mark.parametrize("optimizer", [gi.SGD(0.05, momentum=0.9), gi.RMSProp(0.01), gi.Adam(0.02), gi.AdamW(0.02)])
def test_finite_differences_in_the_weights_converge_to_the_scores_at_second_order(kind, optimizer):
    of, direction = task(kind), normal(21, N).sign()
    slope = -float(gi.itd(of.train(7, optimizer), of.metric()) @ direction)

    def metric_at(h):
        return float(of.metric()(of.train(7, optimizer, weights=1 + h * direction)))

    coarse, fine = (abs((metric_at(h) - metric_at(-h)) / (2 * h) - slope) for h in (4e-3, 2e-3))
    assert fine < 1e-2 * abs(slope)
    assert 1.8 < math.log2(coarse / fine) < 2.2


def sgd_influence(of, steps, lr, last=None):
    """Hara et al. (2019): ``u <- grad E``; for t = T-1 ...: ``L_j += <u, eta_t / |S_t| grad l_j>`` for j in S_t, then
    ``u <- u - eta_t H^[t] u``.
    """
    psis = [psi.detach() for psi in gradient_descent(of, torch.ones(N, dtype=torch.float64), steps, lr)]
    u, influence = of.test_gradient(psis[-1]), torch.zeros(N, dtype=torch.float64)
    for t in reversed(range(0 if last is None else steps - last, steps)):
        rows = of.batch(t)
        for j in rows:
            influence[j] += lr / len(rows) * u @ of.row_gradient(psis[t], j)
        u = u - lr * of.hessian(psis[t], t) @ u
    return influence


@each_kind
@pytest.mark.parametrize("last", [None, 3])
def test_itd_is_sgd_influence_as_hara_et_al_print_it(kind, last):
    of = task(kind)
    scores = gi.itd(of.train(7), of.metric(), last=last)
    assert relative_error(scores, sgd_influence(of, 7, 0.3, last)) < 1e-12


def test_sgd_influence_is_the_product_of_the_steps_jacobians():
    # Hara et al. (2019), Theorem 3's estimator: sum over t of (prod_{s > t} Z_s) eta / |S_t| grad l_j, Z = I - eta H.
    of, eta = task("cross-entropy"), 0.3
    psis = [psi.detach() for psi in gradient_descent(of, torch.ones(N, dtype=torch.float64), 5, eta)]
    change = torch.zeros(len(psis[0]), N, dtype=torch.float64)
    for t in range(5):
        change = change - eta * of.hessian(psis[t], t) @ change
        for j in of.batch(t):
            change[:, j] += eta / len(of.batch(t)) * of.row_gradient(psis[t], j)
    assert relative_error(gi.itd(of.train(5), of.metric()), of.test_gradient(psis[-1]) @ change) < 1e-12


def test_itd_foretells_retraining():
    n = 100
    x, x_test = normal(310, n, 2), normal(311, 50, 2)
    noise, noise_test = normal(312, n), normal(313, 50)
    labels, test_labels = (x.sum(1) + noise > 0).long(), (x_test.sum(1) + noise_test > 0).long()
    game = gi.Game(None, nn.Linear(2, 1).double(), loss="binary_cross_entropy", l2=0.05)
    trace = gi.train(game, (x, labels), gi.Minibatches(n, 20, seed=0), 60, gi.SGD(0.3))
    metric = AverageLoss(x_test, test_labels)
    truth = gi.counterfactual(trace, metric, [[row] for row in range(n)])
    assert relative_error(gi.itd(trace, metric), truth) < 0.1
    full = gi.train(game, (x, labels), gi.FullBatch(), 400, gi.SGD(0.3))
    truth = gi.counterfactual(full, metric, [[row] for row in range(n)])
    assert relative_error(gi.aid(full, metric, solver="gmres"), truth) < 0.1
    assert relative_error(gi.aid(full, metric, terms=400), gi.itd(full, metric)) < 1e-6


# ------------------------------------------------------------------------------------------------------------- AID


def influence_function(of, psi, damping=0.0):
    """Koh and Liang (2017) for a removal: ``(1/N) grad E^T (H + gamma I)^{-1} grad l_j``, H that of all rows."""
    hessian = of.but(schedule=gi.FullBatch()).hessian(psi)
    damped = hessian + damping * torch.eye(len(psi), dtype=torch.float64)
    return torch.linalg.solve(damped, of.test_gradient(psi)) @ row_gradients(of, psi) / N


def row_gradients(of, psi):
    return torch.stack([of.row_gradient(psi, j) for j in range(N)], dim=1)


@each_kind
@pytest.mark.parametrize("damping", [0.0, 0.5])
def test_aid_with_gmres_is_the_influence_function(kind, damping):
    of = task(kind, schedule=gi.FullBatch())
    trace = of.train(7)
    scores = gi.aid(trace, of.metric(), solver="gmres", damping=damping)
    assert relative_error(scores, influence_function(of, trace.theta(), damping)) < 1e-9


@each_kind
@pytest.mark.parametrize("damping", [0.0, 0.5])
def test_after_whole_epochs_of_minibatches_gmres_is_the_influence_function_of_all_rows(kind, damping):
    of = task(kind)
    trace = of.train(6)  # batches of 5, 5, 4 rows, twice
    scores = gi.aid(trace, of.metric(), solver="gmres", damping=damping)
    assert relative_error(scores, influence_function(of, trace.theta(), damping)) < 1e-9


@each_kind
@pytest.mark.parametrize("damping", [0.0, 0.2])
def test_the_stochastic_series_is_that_of_the_batches_hessians(kind, damping):
    # Koh and Liang (2017), stochastic estimation, term by term: v <- v - eta (H_batch + gamma I) v, summed.
    of = task(kind)
    trace = of.train(7)
    psi, term = trace.theta(), of.test_gradient(trace.theta())
    series = term
    for t in range(7, 7 + 8):
        term = term - 0.3 * (of.hessian(psi, t) @ term + damping * term)
        series = series + term
    expected = 0.3 / N * series @ row_gradients(of, psi)
    assert relative_error(gi.aid(trace, of.metric(), terms=9, damping=damping), expected) < 1e-12


def test_batches_of_all_rows_in_another_order_give_the_scores_of_the_full_batch():
    of = task("cross-entropy", schedule=gi.Minibatches(N, N, seed=3))
    trace = of.train(7)
    full = replace(trace, schedule=gi.FullBatch())
    for options in ({"terms": [2, 30]}, {"solver": "gmres"}):
        assert relative_error(*(gi.aid(run, of.metric(), **options) for run in (trace, full))) < 1e-11


@each_kind
def test_the_neumann_series_is_that_of_the_hessian(kind):
    of = task(kind, schedule=gi.FullBatch())
    trace = of.train(7)
    z = torch.eye(len(trace.theta()), dtype=torch.float64) - 0.3 * of.hessian(trace.theta())
    series = sum(torch.linalg.matrix_power(z, m) for m in range(9))
    expected = 0.3 / N * of.test_gradient(trace.theta()) @ series @ row_gradients(of, trace.theta())
    assert relative_error(gi.aid(trace, of.metric(), terms=9), expected) < 1e-12


CAPTUM_LOSSES = {
    "squared-error": lambda outputs, targets: nn.functional.mse_loss(outputs, targets, reduction="none").sum(1) / 2,
    "cross-entropy": nn.CrossEntropyLoss(reduction="none"),
    "binary-cross-entropy": lambda outputs, targets: nn.functional.binary_cross_entropy_with_logits(
        outputs[:, 0], targets.double(), reduction="none"
    ),
}


@pytest.mark.parametrize("kind", CAPTUM_LOSSES)
@pytest.mark.parametrize("damping", [0.0, 0.25])
def test_aid_equals_captums_influence_function(kind, damping):
    captum = pytest.importorskip("captum.influence")
    from torch.utils.data import TensorDataset

    of = task(kind, schedule=gi.FullBatch(), l2=0.5)
    trace = of.train(7)
    model = perceptron(KINDS[kind][0])[0]
    model.load_state_dict(trace.parameters()["model"])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        theirs = captum.NaiveInfluenceFunction(
            model,
            TensorDataset(of.inputs, of.targets),
            checkpoint="",
            checkpoints_load_func=lambda model, path: 1.0,
            loss_fn=CAPTUM_LOSSES[kind],
            batch_size=N,
            projection_dim=10**6,  # the whole inverse
            hessian_reg=N * (of.l2 + damping),  # captum's Hessian is of the sum over the rows
            hessian_inverse_tol=0.0,
        )
        expected = theirs.influence(of.test)
    assert theirs.R.shape == (len(trace.theta()),) * 2  # no direction of negative curvature was dropped
    scores = gi.aid(trace, of.metric(), solver="gmres", damping=damping)
    assert relative_error(scores, expected.mean(0)) < 1e-9
    each = gi.aid(trace, AverageLoss(*of.test, each=True), solver="cg", damping=damping)
    assert relative_error(each, expected) < 1e-9


def test_aid_at_an_optimum_is_the_derivative_of_the_optimum():
    # Ridge regression: psi(w) = (X^T diag(w) X / n + l2 I)^{-1} X^T diag(w) y / n, differentiated by autograd.
    x, y = normal(320, N, 3), normal(321, N, 1)
    model = nn.Linear(3, 1, bias=False).double()
    weights = torch.ones(N, dtype=torch.float64, requires_grad=True)
    normal_matrix = x.T @ (weights[:, None] * x) / N + 0.1 * torch.eye(3, dtype=torch.float64)
    optimum = torch.linalg.solve(normal_matrix, x.T @ (weights[:, None] * y) / N)
    model.weight.data = optimum.detach().T.clone()
    x_test, y_test = normal(322, 8, 3), normal(323, 8, 1)
    expected = -torch.autograd.grad(((x_test @ optimum - y_test) ** 2).sum(1).mean() / 2, weights)[0]
    game = gi.Game(None, model, loss="squared_error", l2=0.1)
    metric = AverageLoss(x_test, y_test)
    for schedule in (gi.FullBatch(), gi.Minibatches(N, 5, seed=3), gi.Minibatches(N, 1, seed=3)):
        trace = gi.train(game, (x, y), schedule, 0, gi.SGD(0.1))
        assert relative_error(gi.aid(trace, metric, solver="gmres"), expected) < 1e-10
    long = gi.train(game, (x, y), gi.FullBatch(), 400, gi.SGD(0.3))
    assert relative_error(gi.itd(long, metric), expected) < 1e-8


# -------------------------------------------------------------------------------------------- removals and the rest


@each_kind
def test_counterfactuals_equal_hand_written_retraining(kind):
    of, removals = task(kind), [[3], [11, 7], list(range(9)), []]
    trace = of.train(7)
    truth = gi.counterfactual(trace, of.metric(), removals)
    for influence, removed in zip(truth, removals, strict=True):
        weights = torch.ones(N, dtype=torch.float64).index_fill(0, torch.tensor(removed, dtype=torch.long), 0.0)
        by_hand = of.test_loss(gradient_descent(of, weights, 7)[-1]) - of.metric()(trace)
        torch.testing.assert_close(influence, by_hand.detach(), rtol=0, atol=1e-13)
    assert truth[:3].ne(0).all()


def test_a_rows_share_of_l2_leaves_with_it_in_every_score_and_in_retraining():
    of, removals = task("cross-entropy", l2_by_row=True), [[3], [11, 7], list(range(9))]
    trace, weights = of.train(7), torch.ones(N, dtype=torch.float64, requires_grad=True)
    run = gradient_descent(of, weights, 7)
    assert relative_error(trace.theta(), of.but(l2_by_row=False).train(7).theta()) < 1e-13
    expected = -torch.autograd.grad(of.test_loss(run[-1]), weights)[0]
    assert relative_error(gi.itd(trace, of.metric()), expected) < 1e-12
    truth = gi.counterfactual(trace, of.metric(), removals)
    for influence, removed in zip(truth, removals, strict=True):
        kept = torch.ones(N, dtype=torch.float64).index_fill(0, torch.tensor(removed), 0.0)
        end = gradient_descent(of, kept, 7)[-1].detach()
        assert relative_error(gi.retrain(trace, removed).theta(), end) < 1e-13
        torch.testing.assert_close(influence, of.test_loss(end) - of.metric()(trace), rtol=0, atol=1e-13)
    metric = of.metric()
    for scored in (lambda run: gi.itd(run, metric), lambda run: gi.counterfactual(run, metric, removals)):
        assert relative_error(scored(trace), scored(of.but(l2_by_row=False).train(7))) > 0.01


@pytest.mark.parametrize("schedule", [gi.FullBatch(), gi.Minibatches(N, 5, seed=3)], ids=["full", "minibatches"])
def test_a_rows_share_of_l2_is_in_its_term_of_aid_and_in_the_curvature(schedule):
    of = task("binary-cross-entropy", schedule=schedule, l2_by_row=True)
    trace = of.train(6)
    scores = gi.aid(trace, of.metric(), solver="gmres")
    assert relative_error(scores, influence_function(of, trace.theta())) < 1e-9
    without = gi.retrain(trace, [2])  # as N rows' mean: the Hessian has N - 1 shares of L2
    kept = torch.ones(N, dtype=torch.float64).index_fill(0, torch.tensor([2]), 0.0)
    whole, psi = of.but(schedule=gi.FullBatch()), without.theta()
    hessian = torch.autograd.functional.hessian(lambda at: whole.objective(at, kept, 0), psi)
    expected = kept / N * (torch.linalg.solve(hessian, of.test_gradient(psi)) @ row_gradients(of, psi))
    assert relative_error(gi.aid(without, of.metric(), solver="gmres"), expected) < 1e-9


def test_the_l2_of_a_player_without_rows_stays_and_that_of_kernels_is_shared_too():
    latents, rows = normal(330, N, 2), normal(331, N, 2)
    torch.manual_seed(0)
    generator, discriminator = nn.Linear(2, 2).double(), nn.Linear(2, 1).double()
    game = gi.Game(generator, discriminator, loss="hinge", l2=(0.3, 0.2), l2_of="kernels", l2_by_row=True)
    trace = gi.train(game, rows, gi.FullBatch(latents), 0, gi.SGD(0.1))
    weights = torch.linspace(0.2, 1.7, N, dtype=torch.float64)
    parts, inputs = game.split(trace.theta()), trace.inputs(0)._replace(weights=weights)
    costs = trace.game.costs(gi.Players(trace.game, trace.theta()), inputs)
    paid, _ = trace.game.losses(parts, inputs)
    of_rows = costs.rows["discriminator"] + 0.1 * discriminator.weight.square().sum()
    torch.testing.assert_close(paid["discriminator"], weights @ of_rows / N + costs.rest["discriminator"])
    torch.testing.assert_close(paid["generator"], costs.rest["generator"] + 0.15 * generator.weight.square().sum())


def test_runs_of_which_one_shares_l2_among_rows_are_retrained_apart():
    traces = [task("cross-entropy", l2_by_row=by_row).train(3) for by_row in (False, True)]
    with pytest.raises(ValueError, match=r"traces\[1\] differs from traces\[0\] in l2_of"):
        counterfactuals(traces, [task("cross-entropy").metric()] * 2, [[[1]]] * 2)


def test_other_targets_are_another_run(tmp_path):
    of, checkpoint = task("cross-entropy"), gi.Checkpoint(folder=tmp_path)
    of.train(4, memory=checkpoint)
    with pytest.raises(ValueError, match=r"differs in data was [^;]*\. Give each run a folder"):
        of.but(targets=2 - of.targets).train(4, memory=checkpoint)


def test_a_model_goes_by_its_name():
    trace = task("cross-entropy").train(3)
    assert list(trace.parameters()) == ["model"]
    assert list(trace.parameters()["model"]) == ["0.weight", "0.bias", "2.weight", "2.bias"]
    assert same_bits(trace.players().outputs(TEST_INPUTS), functional_outputs(trace))


def functional_outputs(trace):
    return functional_call(perceptron(3)[0], trace.parameters()["model"], (TEST_INPUTS,))


def test_l2_is_one_number():
    of = task("cross-entropy", l2=0.7)
    psi = gradient_descent(of, torch.ones(N, dtype=torch.float64), 3)[-1].detach()
    assert relative_error(of.train(3).theta(), psi) < 1e-13
    assert relative_error(of.but(l2=0.2).train(3).theta(), psi) > 1e-2


def test_frozen_layers_are_constants():
    of = task("cross-entropy")
    of.model[0].requires_grad_(False)
    trace = of.train(4)
    assert trace.game.size == 12
    weights = torch.ones(N, dtype=torch.float64, requires_grad=True)
    psi, frozen = perceptron(3)[0], of.start()[:9]
    head = torch.cat([p.detach().reshape(-1) for p in psi[2].parameters()]).requires_grad_()
    for t in range(4):
        rows = of.batch(t)
        costs = log_loss(of.outputs(torch.cat([frozen, head]), INPUTS[rows]), of.targets[rows])
        objective = (weights[rows] * costs).sum() / len(rows) + 0.1 * head @ head
        head = head - 0.3 * torch.autograd.grad(objective, head, create_graph=True)[0]
    expected = -torch.autograd.grad(of.test_loss(torch.cat([frozen, head])), weights)[0]
    assert relative_error(gi.itd(trace, of.metric()), expected) < 1e-12


# ------------------------------------------------------------------------------------------------- shapes and types


class Column(nn.Module):
    """One output a row, as a vector or as a column."""

    def __init__(self, vector):
        super().__init__()
        self.layer = nn.Linear(2, 1).double()
        nn.init.constant_(self.layer.weight, 0.3)
        nn.init.constant_(self.layer.bias, -0.1)
        self.vector = vector

    def forward(self, x):
        return self.layer(x)[:, 0] if self.vector else self.layer(x)


@pytest.mark.parametrize("loss", ["squared_error", "binary_cross_entropy"])
@pytest.mark.parametrize("vector_of_targets", [False, True])
@pytest.mark.parametrize("vector_of_outputs", [False, True])
def test_one_number_a_row_may_be_a_vector_or_a_column(vector_of_outputs, vector_of_targets, loss):
    labels = (INPUTS.sum(1) > 0).double()

    def scores(model, targets):
        trace = gi.train(gi.Game(None, model, loss), (INPUTS, targets), gi.Minibatches(N, 5), 5, gi.SGD(0.3))
        return gi.itd(trace, AverageLoss(INPUTS, targets))

    expected = scores(Column(False), labels[:, None])
    actual = scores(Column(vector_of_outputs), labels if vector_of_targets else labels[:, None])
    assert expected.ne(0).all()
    assert relative_error(actual, expected) < 1e-14


@pytest.mark.parametrize("dtype", [torch.int64, torch.int32, torch.uint8, torch.bool, torch.float32, torch.float64])
def test_binary_targets_may_be_of_any_type(dtype):
    of = task("binary-cross-entropy")
    typed = of.but(targets=of.targets.to(dtype))
    assert same_bits(gi.itd(typed.train(4), of.metric()), gi.itd(of.train(4), of.metric()))


def test_targets_need_not_be_contiguous():
    of = task("squared-error")
    strided = of.but(targets=of.targets.T.contiguous().T)
    assert relative_error(gi.itd(strided.train(4), of.metric()), gi.itd(of.train(4), of.metric())) < 1e-14


def test_rows_may_have_any_shape():
    model = nn.Sequential(nn.Conv2d(1, 2, 3), nn.Tanh(), nn.Flatten(), nn.Linear(8, 3)).double()
    images, labels = normal(330, 10, 1, 4, 4), torch.arange(10) % 3
    metric = AverageLoss(images, labels)
    game = gi.Game(None, model, "cross_entropy")

    def trained(weights):
        return gi.train(game, (images, labels), gi.Minibatches(10, 4), 5, gi.SGD(0.1), weights=weights)

    ones, direction, h = torch.ones(10, dtype=torch.float64), normal(331, 10), 1e-5
    slope = float(metric(trained(ones + h * direction)) - metric(trained(ones - h * direction))) / (2 * h)
    assert -float(gi.itd(trained(ones), metric) @ direction) == pytest.approx(slope, rel=1e-6)


# -------------------------------------------------------------------------------------------------------- bad input

LABELS = task("cross-entropy").targets
PAIRS = {
    "rows-alone": (
        INPUTS,
        TypeError,
        r"data of a one-player game is a pair of tensors \(inputs, targets\), got Tensor",
    ),
    "three": ((INPUTS, LABELS, LABELS), TypeError, r"is a pair of tensors \(inputs, targets\), got tuple"),
    "list-of-targets": ((INPUTS, LABELS.tolist()), TypeError, r"is a pair of tensors \(inputs, targets\), got tuple"),
    "few-targets": ((INPUTS, LABELS[:5]), ValueError, r"there are 14 inputs, but targets of shape \(5,\): one a row"),
    "scalar-target": ((INPUTS, LABELS[0]), ValueError, r"there are 14 inputs, but targets of shape \(\): one a row"),
    "nan-targets": ((INPUTS, NOISE[:, 0] * math.nan), ValueError, r"targets contain NaN or infinity: remove or repair"),
    "nan-inputs": ((INPUTS * math.nan, LABELS), ValueError, r"data contains NaN or infinity, first in row 0"),
    "single-inputs": ((INPUTS.float(), LABELS), TypeError, r"data is float32, but .*parameters are float64: convert"),
    "wide-inputs": ((normal(0, N, 3), LABELS), ValueError, r"the model does not accept rows of shape \(3,\)"),
    "no-such-class": ((INPUTS, LABELS + 5), ValueError, "class indices of cross_entropy must be below 3"),
}


@pytest.mark.parametrize(("data", "error", "message"), PAIRS.values(), ids=PAIRS)
def test_training_refuses(data, error, message):
    game = gi.Game(None, perceptron(3)[0], loss="cross_entropy")
    with pytest.raises(error, match=message):
        gi.train(game, data, gi.FullBatch(), 2, gi.SGD(0.1))


GAMES = {
    "loss-of-a-gan": (
        {"loss": "minimax"},
        ValueError,
        r"unknown loss 'minimax' of a one-player game; known losses: bin",
    ),
    "default-loss": ({}, ValueError, r"unknown loss 'minimax' of a one-player game"),
    "no-loss": ({"loss": None}, TypeError, r"is a function \(outputs, targets\) -> \(n,\), or one of binary_cross_en"),
    "negative-l2": ({"loss": "cross_entropy", "l2": -0.1}, ValueError, r"l2 must be .*>= 0"),
    "l2-nan": ({"loss": "cross_entropy", "l2": math.nan}, ValueError, r"l2 must be .*>= 0"),
    "function": ({"loss": "cross_entropy", "discriminator": len}, TypeError, r"the model must be a torch.nn.Module"),
    "dropout": (
        {"loss": "cross_entropy", "discriminator": nn.Sequential(nn.Linear(2, 3), nn.Dropout(0.1)).double()},
        ValueError,
        r"the model's Dropout '1' draws fresh randomness at every call.*call .eval\(\)",
    ),
    "batch-norm": (
        {"loss": "cross_entropy", "discriminator": nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3)).double()},
        ValueError,
        r"the model's BatchNorm1d '1' uses batch statistics",
    ),
}


@pytest.mark.parametrize(("changes", "error", "message"), GAMES.values(), ids=GAMES)
def test_a_game_refuses(changes, error, message):
    with pytest.raises(error, match=message):
        gi.Game(None, **({"discriminator": perceptron(3)[0]} | changes))


@pytest.mark.parametrize("order", ["alternating", "turns"])
def test_one_player_takes_no_turns(order):
    with pytest.raises(ValueError, match=rf"update='{order}' needs two players, but this is a one-player game"):
        task("cross-entropy").train(2, update=order)


def test_no_generator_is_averaged():
    with pytest.raises(ValueError, match=r"ema_decay averages the generator, but this is a one-player game"):
        task("cross-entropy").train(2, ema_decay=0.9)


@pytest.mark.parametrize(
    "loss", [lambda f, y: (f - y).square().mean(), lambda f, y: (f - y).square()], ids=["mean", "all"]
)
def test_a_loss_gives_one_cost_a_row(loss):
    with pytest.raises(ValueError, match=r"the loss gives shape \(.*\) for 5 rows: it must give one cost a row"):
        task("squared-error", loss=loss).train(2)


def test_a_loss_that_mixes_rows_is_refused():
    def centred(outputs, targets):
        return squared(outputs - outputs.mean(0), targets)

    with pytest.raises(ValueError, match=r"the model gives row 0 of its batch the cost .*batch statistics"):
        task("squared-error", loss=centred).train(2)


def test_a_diverging_model_is_named():
    with pytest.raises(
        gi.DivergenceError, match=r"the model's parameters are no longer finite \(last finite losses, at"
    ):
        task("squared-error").train(300, gi.SGD(1e3))


def test_a_metric_of_generators_is_refused():
    metric = gi.metrics.AverageLogLikelihood(normal(0, 5, 2), normal(1, 5, 2))
    with pytest.raises(TypeError, match=r"measures a generator, but this game has one player: use AverageLoss"):
        gi.itd(task("cross-entropy").train(2), metric)
