"""The report on SGD-influence's section 7.1: every number against plain loops with dense matrices."""

import itertools
import json
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.stats import kendalltau
from sklearn.linear_model import LogisticRegressionCV
from support.results import result_of

import gan_influence as gi
from reports.experiments import EXPERIMENTS
from reports.experiments import sgd_influence_accuracy as experiment
from reports.parts import supervised
from reports.statistics import expected_jaccard, jaccard
from reports.summary import Summary, load_published

ACCURACY = EXPERIMENTS["sgd-influence-accuracy"]
OURS, FIRST_ORDER, KL, CONVERGED, UNDAMPED = experiment.METHODS
ROWS, SEED = 20, 1
TINY = {
    **experiment.SMOKE,
    "rows": ROWS,
    "critical": 3,
    "training": {"logreg": {"digits": [3, 4, 0.1]}, "dnn": {"digits": [2, 5, 0.1]}},
}
UNITS = "logreg-digits", "dnn-digits"


class Reference:
    """A seed by plain loops over ``theta``, as the authors' code has them, and K&L with its whole Hessian."""

    def __init__(self, unit: str, seed: int = SEED):
        model, data = unit.split("-")
        (self.x, labels), (self.x_held_out, labels_held_out) = supervised.binary_problem(data, ROWS, seed)
        self.y, self.y_held_out = labels.double(), labels_held_out.double()
        self.epochs, self.batch, self.lr = TINY["training"][model][data]
        self.decays, self.damping = model == "logreg", 1.0
        torch.manual_seed(seed)
        layer = torch.nn.Linear
        self.sizes = [(1, 64)] if model == "logreg" else [(8, 64), (8, 8), (1, 8)]
        made = [layer(before, after) for after, before in self.sizes]
        parameters = itertools.chain.from_iterable(one.parameters() for one in made)
        self.start = torch.cat([p.detach().double().flatten() for p in parameters])
        self.l2 = 1e-3
        if model == "logreg":
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # of options to come
                fitted = LogisticRegressionCV(random_state=seed, fit_intercept=False, cv=5).fit(self.x, labels)
            self.l2 = self.damping = 1 / (fitted.C_[0] * ROWS)

    def losses(self, theta, x, y):
        at = 0
        for k, (after, before) in enumerate(self.sizes):
            weight = theta[at : at + after * before].view(after, before)
            bias = theta[at + after * before : at + after * before + after]
            at += after * before + after
            x = (x.relu() if k else x) @ weight.T + bias
        logits = x[:, 0]
        return torch.nn.functional.softplus(logits) - y * logits

    def cost(self, theta, rows):
        """The mean over rows, plus L2."""
        return self.losses(theta, self.x[rows], self.y[rows]).mean() + self.l2 / 2 * theta.square().sum()

    def gradient(self, function, theta):
        theta = theta.clone().requires_grad_()
        return torch.autograd.grad(function(theta), theta)[0]

    def held_out(self, theta):
        return self.losses(theta, self.x_held_out, self.y_held_out).mean()

    def steps(self):
        count = 0
        for epoch in range(self.epochs):
            np.random.seed(epoch)  # noqa: NPY002 (the authors' own)
            for rows in np.array_split(np.random.permutation(ROWS), -(-ROWS // self.batch)):  # noqa: NPY002
                count += 1
                yield rows, self.lr / np.sqrt(count) if self.decays else self.lr

    def trained(self, without=None):
        """All states."""
        states = [self.start]
        for rows, rate in self.steps():
            kept = [row for row in rows if row != without]
            gradient = self.gradient(lambda theta, kept=kept: self.cost(theta, kept), states[-1])
            states.append(states[-1] - rate * len(kept) / len(rows) * gradient)
        return states

    def truth(self):
        before = self.held_out(self.trained()[-1])
        return [float(self.held_out(self.trained(row)[-1]) - before) for row in range(ROWS)]

    def scores(self, hessian):
        states, scores = self.trained(), np.zeros(ROWS)
        u = self.gradient(self.held_out, states[-1])
        for theta, (rows, rate) in reversed(list(zip(states[:-1], self.steps(), strict=True))):
            for row in rows:
                scores[row] += (
                    rate / len(rows) * float(u @ self.gradient(lambda at, row=row: self.cost(at, [row]), theta))
                )
            if hessian:
                curved = torch.autograd.functional.hessian(lambda at, rows=rows: self.cost(at, rows), theta)
                u = u - rate * curved @ u
        return scores

    def koh_and_liang(self, solve):
        """``solve(Hessian of the mean cross-entropy, u)`` times each row's gradient of it."""
        end = self.trained()[-1]
        hessian = torch.autograd.functional.hessian(lambda at: self.losses(at, self.x, self.y).mean(), end)
        solution = solve(hessian, self.gradient(self.held_out, end))
        slopes = torch.autograd.functional.jacobian(lambda at: self.losses(at, self.x, self.y), end)
        return slopes @ solution / ROWS

    def gauss_newton(self):
        """Of the mean cross-entropy at the end: with ``p`` the probability, ``p (1 - p) Df^T Df``."""
        end, ones = self.trained()[-1], torch.ones_like(self.y)
        slopes = torch.autograd.functional.jacobian(
            lambda at: self.losses(at, self.x, 0 * ones) - self.losses(at, self.x, ones), end
        )
        logits = self.losses(end, self.x, 0 * ones) - self.losses(end, self.x, ones)
        p = logits.sigmoid()
        return slopes.T @ (slopes * (p * (1 - p))[:, None]) / ROWS


def by_momentum(hessian, u, damping):
    v, speed = u.clone(), 0
    for _ in range(100):
        speed = 0.9 * speed + hessian @ v + damping * v - u
        v = v - 0.01 * speed
    return v


def solved(hessian, u, damping):
    return torch.linalg.solve(hessian + damping * torch.eye(len(u), dtype=u.dtype), u)


@pytest.fixture(scope="module", params=UNITS)
def compared(request):
    return request.param, experiment.run_unit(TINY, SEED, request.param, "cpu"), Reference(request.param)


def test_the_truth_is_retraining_without_each_row_as_the_authors_do(compared):
    _, record, reference = compared
    assert record["l2"] == pytest.approx(reference.l2)
    assert record["truth"] == pytest.approx(reference.truth(), rel=1e-7, abs=1e-12)


def test_sgd_influence_is_the_authors_recursion_with_and_without_hessians(compared):
    _, record, reference = compared
    assert record["scores"][OURS] == pytest.approx(reference.scores(hessian=True), rel=1e-7, abs=1e-12)
    assert record["scores"][FIRST_ORDER] == pytest.approx(reference.scores(hessian=False), rel=1e-7, abs=1e-12)


def test_kl_is_momentum_on_the_quadratic_and_the_converged_one_a_dense_solution(compared):
    _, record, reference = compared
    published = reference.koh_and_liang(lambda hessian, u: by_momentum(hessian, u, reference.damping))
    assert record["scores"][KL] == pytest.approx(published.tolist(), rel=1e-7, abs=1e-12)
    converged = reference.koh_and_liang(lambda hessian, u: solved(hessian, u, reference.damping))
    assert np.array(record["scores"][CONVERGED]) == pytest.approx(converged.numpy(), rel=1e-4, abs=1e-8)
    assert record["residual"][CONVERGED] <= 1e-6 < record["residual"][KL]


def test_without_damping_an_indefinite_hessian_gives_way_to_gauss_newton(compared):
    unit, record, reference = compared
    assert record["refused"] == {CONVERGED: False, UNDAMPED: unit == "dnn-digits"}
    matrix = reference.gauss_newton() if record["refused"][UNDAMPED] else None

    def solve(hessian, u):
        return solved(hessian if matrix is None else matrix, u, reference.l2)

    expected = reference.koh_and_liang(solve).numpy()
    got = np.array(record["scores"][UNDAMPED])
    assert np.linalg.norm(got - expected) <= 1e-3 * np.linalg.norm(expected)


def test_the_cells_are_tau_and_jaccard_of_the_scores_and_the_truth(compared):
    unit, record, _ = compared
    settings = {**TINY, "training": {unit.split("-")[0]: TINY["training"][unit.split("-")[0]]}}
    values = experiment.combine(settings, {unit: record})
    (at,) = experiment.columns(settings)
    for name in experiment.METHODS:
        scores, truth = np.array(record["scores"][name]), np.array(record["truth"])
        assert values[experiment.TAU][name][at] == kendalltau(scores, truth).statistic
        assert values[experiment.JACCARD][name][at] == jaccard(scores, truth, 3)
        error = np.linalg.norm(scores - truth) / np.linalg.norm(truth)
        assert values[experiment.ERROR][name][at] == pytest.approx(error)
    assert values[experiment.JACCARD][experiment.RANDOM][at] == expected_jaccard(ROWS, 3)
    assert values[experiment.TAU][experiment.RANDOM][at] == 0
    assert values[experiment.REFUSED] == {name: {at: float(record["refused"][name])} for name in (CONVERGED, UNDAMPED)}


def keep_the_share_of_l2(monkeypatch):
    monkeypatch.setitem(TINY, "l2_removed_with_row", False)


def draw_the_same_order_in_all_epochs(monkeypatch):
    monkeypatch.setattr(np.random, "RandomState", lambda epoch: np.random.Generator(np.random.PCG64(0)))


def forget_the_decay(monkeypatch):
    monkeypatch.setattr(gi, "InverseSqrt", lambda lr: lr)


def measure_with_l2(monkeypatch):
    monkeypatch.setattr(
        supervised.ValidationLoss,
        "value",
        lambda self, players: (
            supervised._cross_entropy(players.model(self.rows.inputs), self.rows.targets).mean()
            + 0.5 * players.parameters["model"].square().sum()
        ),
    )


@pytest.mark.parametrize(
    "fault", [keep_the_share_of_l2, draw_the_same_order_in_all_epochs, forget_the_decay, measure_with_l2]
)
def test_a_fault_is_seen(monkeypatch, fault):
    reference = Reference(UNITS[0])
    fault(monkeypatch)
    record = experiment.run_unit(TINY, SEED, UNITS[0], "cpu")
    assert record["truth"] != pytest.approx(reference.truth(), rel=1e-3)
    assert record["scores"][OURS] != pytest.approx(reference.scores(hessian=True), rel=1e-3)


def test_a_run_whose_momentum_diverges_has_no_cell():
    settings = {**TINY, "momentum": {"steps": 100, "rate": 10.0, "momentum": 0.9}}
    found = experiment.koh_and_liang(settings, SEED, UNITS[0], "cpu")
    assert found["scores"][KL] is None
    assert found["residual"][KL] is None
    assert found["scores"][CONVERGED] is not None
    assert set(experiment._agreement(None, np.arange(3.0), 1).values()) == {None}


def test_the_batches_are_numpys_permutations_of_the_epochs_numbers_and_then_all_rows():
    schedule = supervised.schedule_of(10, 4, 2)
    np.random.seed(1)  # noqa: NPY002 (the authors' own)
    second = np.array_split(np.random.permutation(10), 3)  # noqa: NPY002
    assert [schedule(t).indices.tolist() for t in (3, 4, 5)] == [part.tolist() for part in second]
    assert schedule(6).indices is None


def test_the_parts_are_disjoint_and_standardised_by_the_training_rows():
    train, held_out = supervised.binary_problem("digits", 50, 3)
    assert train.inputs.shape == held_out.inputs.shape == (50, 64)
    moving = train.inputs.std(0, correction=0) > 0
    assert torch.allclose(train.inputs[:, moving].std(0, correction=0), torch.ones(int(moving.sum())).double())
    assert train.inputs.mean(0).abs().max() < 1e-12
    assert set(train.targets.tolist()) == {0, 1}
    assert (held_out.inputs.mean(0).abs() > 1e-3).any()


@pytest.mark.data
def test_mnists_rows_are_those_of_the_tutorial_in_its_order():
    images, labels = gi.datasets.mnist("train")
    ones, sevens = (int((labels[5000:] == digit).sum()) for digit in (1, 7))
    inputs, targets = supervised._table("mnist")
    assert targets.tolist() == [0] * ones + [1] * sevens
    first = images[5000:][labels[5000:] == 7][0].flatten().double()
    assert torch.allclose(inputs[ones], (first + 1) / 2)
    assert (inputs.min(), inputs.max()) == (0, 1)


def test_the_published_cells_are_read_twice():
    cells = load_published("sgd-influence-accuracy").cells
    assert len(cells) == 24
    assert {at for _, _, at in cells} == set(experiment.columns(experiment.PUBLISHED))
    sums = {
        (table, row): [round(sum(cell[key] for at, cell in cells.items() if at[:2] == (table, row)), 2) for key in keys]
        for table, row, keys in itertools.product((experiment.TAU, experiment.JACCARD), (OURS, KL), (("value", "std"),))
    }
    assert sums == {
        (experiment.TAU, OURS): [4.47, 0.43],
        (experiment.TAU, KL): [3.55, 0.77],
        (experiment.JACCARD, OURS): [3.63, 0.74],
        (experiment.JACCARD, KL): [2.23, 0.82],
    }


def runs_of(taus, seeds=6):
    """Made-up runs with these taus, a little apart, in all columns."""
    at = experiment.columns(experiment.PUBLISHED)
    runs = []
    for seed in range(seeds):
        of_methods = {name: dict.fromkeys(at, tau + 1e-3 * (-1) ** seed) for name, tau in taus.items()}
        of_methods[experiment.RANDOM] = dict.fromkeys(at, 0.0)
        tables = dict.fromkeys((experiment.TAU, experiment.JACCARD, experiment.ERROR), of_methods)
        refused = {name: dict.fromkeys(at, float(seed < 2)) for name in (CONVERGED, UNDAMPED)}
        runs.append({"seed": seed, "values": {**tables, experiment.RESIDUAL: of_methods, experiment.REFUSED: refused}})
    return runs


def sentences(taus):
    return experiment.findings(Summary(ACCURACY, result_of(ACCURACY, "paper", runs_of(taus))))


def test_findings_tell_whether_the_printed_tau_is_reached_and_what_loses():
    text = " ".join(sentences({OURS: 0.94, FIRST_ORDER: 0.8, KL: 0.5, CONVERGED: 0.45, UNDAMPED: 0.4}))
    assert "LogReg, Adult: SGD-influence's tau, 0.940 (0.939 to 0.941), is at least the printed 0.93; 6 of 6" in text
    assert "LogReg, MNIST: SGD-influence's tau, 0.940 (0.939 to 0.941), is less than the printed 0.95; 0 of 6" in text
    assert text.count("The method loses, not its solver: solving to the end does not raise tau") == 6
    assert "DNN, MNIST 0.940 against 0.800" in text
    assert "Of 6 runs, CG refused the Hessian" in text
    assert "DNN, MNIST 2 with damping, 2 without (0 of momentum diverged)" in text
    solver = " ".join(sentences({OURS: 0.9, FIRST_ORDER: 0.8, KL: 0.5, CONVERGED: 0.8, UNDAMPED: 0.6}))
    assert solver.count("Mostly the solver loses: a converged one makes up 75 % of the gap") == 6
    method = " ".join(sentences({OURS: 0.9, FIRST_ORDER: 0.8, KL: 0.5, CONVERGED: 0.5, UNDAMPED: 0.6}))
    assert method.count("Mostly the method loses: a converged one makes up 25 % of the gap") == 6
    assert sentences({OURS: 0.4, FIRST_ORDER: 0.3, KL: 0.5, CONVERGED: 0.5, UNDAMPED: 0.6})[3].endswith(
        "K&L does not lose."
    )


def test_files_are_asked_for_where_the_settings_name_their_data():
    assert ACCURACY.files(experiment.SMOKE, range(2)) == []
    assert len(ACCURACY.files(experiment.PUBLISHED, range(2))) == 6


def test_the_committed_run_meets_every_printed_cell():
    result = json.loads((Path(experiment.__file__).parents[1] / "results" / "sgd-influence-accuracy.json").read_text())
    printed = [cell for cell in Summary(ACCURACY, result).cells() if cell["published"] is not None]
    assert [cell["seeds"] for cell in printed] == [30] * 24
    assert {cell["verdict"] for cell in printed} == {"agrees", "within spread"}
