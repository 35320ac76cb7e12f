"""The six losses against their formulas in NumPy, and losses of one's own."""

import numpy as np
import pytest
import torch
from games import lqgan, relative_error

import gan_influence as gi
from gan_influence.losses import LOSSES, Loss, RowLoss


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
LOGITS = torch.linspace(-9.7, 9.9, 99, dtype=torch.float64)


def test_these_are_all_the_losses():
    assert set(LOSSES) == set(FORMULAS)


@pytest.mark.parametrize("name", FORMULAS)
@pytest.mark.parametrize(("k", "cost"), [(0, "real"), (1, "fake"), (2, "generator")])
def test_every_cost_is_its_formula(name, k, cost):
    costs = getattr(LOSSES[name], cost)(LOGITS)
    np.testing.assert_allclose(costs.numpy(), FORMULAS[name][k](LOGITS.numpy()), rtol=1e-14, atol=1e-300)


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
