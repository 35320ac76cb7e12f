"""The six losses against their formulas in NumPy, and losses of one's own."""

import numpy as np
import pytest
import torch
from support.games import lqgan, relative_error

import gan_influence as gi
from gan_influence.losses import LOSSES, ONE_PLAYER_LOSSES, Loss, RowLoss, check_targets


def log_sigmoid(a):
    return -np.logaddexp(0, -a)


FORMULAS = {  # (real, fake, generator), each minimised
    "minimax": (lambda a: -log_sigmoid(a), lambda a: -log_sigmoid(-a), lambda a: log_sigmoid(-a)),
    "non_saturating": (lambda a: -log_sigmoid(a), lambda a: -log_sigmoid(-a), lambda a: -log_sigmoid(a)),
    "wasserstein": (lambda a: -a, lambda a: a, lambda a: -a),
    "least_squares": (lambda a: (a - 1) ** 2, lambda a: a**2, lambda a: (a - 1) ** 2),
    "hinge": (lambda a: np.maximum(1 - a, 0), lambda a: np.maximum(1 + a, 0), lambda a: -a),
    "softplus": (lambda a: np.logaddexp(0, 1 - a), lambda a: np.logaddexp(0, 1 + a), lambda a: -a),
}
LOGITS = torch.linspace(-79.7, 79.9, 799, dtype=torch.float64)


def test_these_are_all_the_losses():
    assert set(LOSSES) == set(FORMULAS)


@pytest.mark.parametrize("name", FORMULAS)
@pytest.mark.parametrize(("k", "cost"), [(0, "real"), (1, "fake"), (2, "generator")])
def test_every_cost_is_its_formula(name, k, cost):
    costs = getattr(LOSSES[name], cost)(LOGITS)
    np.testing.assert_allclose(costs.numpy(), FORMULAS[name][k](LOGITS.numpy()), rtol=1e-14, atol=1e-300)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_second_derivatives_are_those_of_the_formula_at_large_logits_too(dtype):
    # torch's softplus is a line from 20 on, where the sigmoid's slope is still 2e-9.
    a = torch.tensor([-35.0, -22.0, -1.0, 3.0, 19.9, 20.1, 22.0, 30.0, 35.0], dtype=dtype, requires_grad=True)
    (slope,) = torch.autograd.grad(LOSSES["minimax"].fake(a).sum(), a, create_graph=True)
    (second,) = torch.autograd.grad(slope.sum(), a)
    x = a.detach().double().numpy()
    expected = 1 / ((1 + np.exp(-x)) * (1 + np.exp(x)))
    eps = torch.finfo(dtype).eps
    np.testing.assert_allclose(slope.detach().double().numpy(), 1 / (1 + np.exp(-x)), rtol=4 * eps)
    np.testing.assert_allclose(second.double().numpy(), expected, rtol=8 * eps, atol=2 * eps)


@pytest.mark.parametrize("name", ["minimax", "non_saturating", "softplus"])
@pytest.mark.parametrize("cost", ["real", "fake", "generator"])
def test_costs_stay_finite_at_extreme_logits(name, cost):
    assert getattr(LOSSES[name], cost)(torch.tensor([-1e4, 1e4])).isfinite().all()


@pytest.mark.parametrize("name", ["minimax", "wasserstein"])
def test_the_papers_losses_are_zero_sum(name):
    loss = LOSSES[name]
    torch.testing.assert_close(loss.generator(LOGITS), -loss.fake(LOGITS), rtol=0, atol=0)
    torch.testing.assert_close(loss.fake(LOGITS), loss.real(-LOGITS), rtol=0, atol=0)  # g(a) = f(-a)


class LeastSquaresByHand:
    def real(self, logits):
        return (logits - 1) ** 2

    def fake(self, logits):
        return logits**2

    def generator(self, logits):
        return (logits - 1) ** 2


@pytest.mark.parametrize(
    "loss", [LeastSquaresByHand(), RowLoss(lambda a: (a - 1) ** 2, lambda a: a**2, lambda a: (a - 1) ** 2)]
)
def test_an_object_with_the_three_costs_is_a_loss(loss):
    named, own = lqgan(loss="least_squares", rates=(0.02, 0.02)), lqgan(loss=loss, rates=(0.02, 0.02))
    assert isinstance(loss, Loss)
    scores = gi.itd(own.train(5), own.metric())
    assert relative_error(scores, gi.itd(named.train(5), named.metric())) == 0


CLASSES = torch.tensor([2, 0, 1, 1])
PROBABILITIES = torch.tensor([[0.25, 0.75], [1.0, 0.0], [0.5, 0.5]])
BINARY, CROSS, SQUARED = "binary_cross_entropy", "cross_entropy", "squared_error"

GOOD_TARGETS = {
    "labels": (BINARY, torch.tensor([0, 1, 1])),
    "float-labels": (BINARY, torch.tensor([[0.0], [1.0]])),
    "bool-labels": (BINARY, torch.tensor([True, False])),
    "soft-labels": (BINARY, torch.tensor([0.1, 0.9])),
    "classes": (CROSS, CLASSES),
    "narrow-classes": (CROSS, CLASSES.to(torch.uint8)),
    "unsigned-labels": (BINARY, torch.tensor([0, 1]).to(torch.uint16)),
    "unsigned-classes": (CROSS, CLASSES.to(torch.uint16)),
    "probabilities": (CROSS, PROBABILITIES),
    "rounded-probabilities": (CROSS, torch.arange(500.0).sin().reshape(50, 10).softmax(1).half()),
    "numbers": (SQUARED, torch.tensor([-3.0, 255.0])),
    "whole-numbers": (SQUARED, torch.tensor([-100, 7])),
}


@pytest.mark.parametrize(("loss", "targets"), GOOD_TARGETS.values(), ids=GOOD_TARGETS)
def test_targets_that_the_loss_takes_pass_its_check(loss, targets):
    check_targets(loss, targets)
    check_targets(ONE_PLAYER_LOSSES[loss], targets)


@pytest.mark.parametrize("loss", [lambda outputs, targets: targets, "minimax", RowLoss(abs, abs, abs)])
def test_of_any_other_loss_the_targets_are_not_checked(loss):
    check_targets(loss, torch.tensor([-100, 255]))


BAD_TARGETS = {
    "minus-one": (
        BINARY,
        torch.tensor([1, -1, -1]),
        ValueError,
        r"0 or 1.* got -1 in row 1: turn labels -1 and 1 into",
    ),
    "255": (BINARY, torch.tensor([[0], [0], [255]]).byte(), ValueError, r"got 255 in row 2: .*0 and 255 into y / 255"),
    "two": (BINARY, torch.tensor([1.0, 2.0]), ValueError, r"got 2 in row 1"),
    "above": (BINARY, torch.tensor([1.0, 1.5]), ValueError, r"got 1.5 in row 1"),
    "nan-label": (BINARY, torch.tensor([1.0, torch.nan]), ValueError, r"got nan in row 1"),
    "complex": (BINARY, torch.tensor([1j]), TypeError, r"real numbers, got torch.complex64"),
    "ignored": (CROSS, torch.tensor([0, 3, -100]), ValueError, r"count from 0, got -100 in row 2: .*torch's -100"),
    "negative": (CROSS, torch.tensor([-1, 3]), ValueError, r"count from 0, got -1 in row 0: number the classes from 0"),
    "int8": (CROSS, torch.tensor([3, -1]).char(), ValueError, r"count from 0, got -1 in row 1"),
    "float-classes": (
        CROSS,
        torch.tensor([3.0, 1.0]),
        TypeError,
        r"got torch.float32, 3.0 in row 0: give targets.long",
    ),
    "bool-classes": (CROSS, torch.tensor([True]), TypeError, r"whole numbers, got torch.bool, True in row 0"),
    "column": (CROSS, CLASSES[:, None], ValueError, r"must have shape \(n,\), got \(4, 1\): flatten them"),
    "one-hot": (CROSS, torch.eye(3).long(), ValueError, r"got \(3, 3\): .* one-hot rows into targets.argmax\(1\)"),
    "signs": (CROSS, 2 * torch.eye(3) - 1, ValueError, r"at least 0, got -1 in row 0: .* give class indices"),
    "no-class": (CROSS, torch.tensor([[1.0, 0], [0, 0]]), ValueError, r"sum to 1 in each row, got 0 in row 1"),
    "two-classes": (CROSS, torch.tensor([[1.0, 1.0]]), ValueError, r"sum to 1 in each row, got 2 in row 0"),
    "bool-numbers": (SQUARED, torch.tensor([True]), TypeError, r"real numbers, got torch.bool: convert them to floats"),
    "infinite": (SQUARED, torch.tensor([0.0, torch.inf]), ValueError, r"must be finite, got inf in row 1"),
}


@pytest.mark.parametrize(("loss", "targets", "error", "message"), BAD_TARGETS.values(), ids=BAD_TARGETS)
def test_targets_outside_a_losss_range_are_refused_with_the_first_of_them(loss, targets, error, message):
    for known in (loss, ONE_PLAYER_LOSSES[loss]):
        with pytest.raises(error, match=message):
            check_targets(known, targets)


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int8, torch.int16, torch.int32], ids=str)
def test_classes_may_be_whole_numbers_of_any_type(dtype):
    outputs = torch.tensor([[1.0, 2.0, 5.0]]).log().repeat(4, 1)  # probabilities 1/8, 2/8, 5/8
    costs = ONE_PLAYER_LOSSES[CROSS](outputs, CLASSES.to(dtype))
    np.testing.assert_allclose(costs.numpy(), -np.log([5 / 8, 1 / 8, 2 / 8, 2 / 8]), rtol=1e-6)
