"""TNNLS Section V: with an empty generator the estimators are those of supervised learning."""

from __future__ import annotations

from functools import cached_property

import numpy as np
import torch
from torch import Tensor, nn

import gan_influence as gi
from gan_influence.losses import RowLoss
from verification.judge import at_most, relative
from verification.ledger import Outcome, claim

ROWS, FEATURES, STEPS, LR, L2 = 40, 3, 50, 0.3, 0.05


class _Parameters:
    """A linear functional of the discriminator's parameters."""

    def __init__(self, direction: Tensor):
        self.direction = direction

    def value(self, players: gi.Players) -> Tensor:
        return (self.direction * list(players.parameters.values())[-1]).sum()


class _Regression:
    """Logistic regression with labels folded into the rows (row times label), as the game of TNNLS V-A: no generator's
    parameters, g = 0 and f the negated cross-entropy."""

    def __init__(self) -> None:
        draws = np.random.default_rng(5)
        inputs, labels = draws.normal(size=(ROWS, FEATURES)), np.sign(draws.normal(size=ROWS))
        self.rows = inputs * labels[:, None]
        loss = RowLoss(real=lambda a: nn.functional.softplus(-a), fake=lambda a: 0.0 * a, generator=lambda a: 0.0 * a)
        model = nn.Linear(FEATURES, 1, bias=False).double()
        nn.init.zeros_(model.weight)
        game = gi.Game(nn.Identity(), model, loss=loss, l2=(0.0, L2))
        schedule = gi.FullBatch(torch.zeros(1, FEATURES, dtype=torch.float64))
        self.trace = gi.train(game, torch.tensor(self.rows), schedule, STEPS, gi.SGD(LR))
        pairs = torch.tensor(inputs), torch.tensor((labels + 1) / 2)
        alone = gi.Game(None, model, loss="binary_cross_entropy", l2=L2)
        self.one_player = gi.train(alone, pairs, gi.FullBatch(), STEPS, gi.SGD(LR))

    @cached_property
    def long(self) -> gi.Trace:
        """Trained to the optimum."""
        return gi.train(self.trace.game, self.trace.data, self.trace.schedule, 4000, gi.SGD(LR))

    def hessian(self, psi: np.ndarray) -> np.ndarray:
        """Of the mean cross-entropy plus L2/2 |psi|^2."""
        sigmoid = 1 / (1 + np.exp(-self.rows @ psi))
        return (self.rows.T * (sigmoid * (1 - sigmoid))) @ self.rows / ROWS + L2 * np.eye(FEATURES)

    def row_gradients(self, psi: np.ndarray) -> np.ndarray:
        """Of every row's cross-entropy."""
        return -self.rows / (1 + np.exp(self.rows @ psi))[:, None]


@claim(
    "sgd-influence",
    "TNNLS V-A, eq. 19",
    "With an empty generator and g = 0, ITD is the SGD-influence of Hara et al. (full batch).",
    "identity",
    r"\Delta\psi_{-j}^{(t+1)} \approx (I + \eta H_\psi)\Delta\psi_{-j}^{(t)} + \Delta v_{-j}^{\psi}",
)
def sgd_influence(preset: str) -> Outcome:
    """Hara et al.'s recursion, written down for logistic regression with its own Hessian (of the loss, so I - eta H),
    in NumPy, against the core's sweep of the game with an empty generator, and of the one-player game on rows with
    labels. With minibatches: sgd-influence-minibatch."""
    regression = _Regression()
    influence = np.zeros((ROWS, FEATURES))
    for psi in regression.trace.states[:-1, 0].numpy():
        z = np.eye(FEATURES) - LR * regression.hessian(psi)
        influence = influence @ z.T + LR / ROWS * regression.row_gradients(psi)
    numbers = {
        "empty generator": relative(_scores(regression.trace), influence),
        "one player": relative(_scores(regression.one_player), influence),
    }
    return at_most(max(numbers.values()), 1e-11, numbers)


@claim(
    "influence-function",
    "TNNLS V-A",
    "With an empty generator and g = 0, AID is the influence function of Koh and Liang.",
    "identity",
    r"\frac{1}{N}H_\psi^{-1}\nabla_\psi\ell(x_j)",
)
def influence_function(preset: str) -> Outcome:
    """The inverse Hessian of the trained logistic regression times each row's gradient, in NumPy, against AID in the
    limit (GMRES) and against 3 000 terms of the series (Koh and Liang's stochastic estimation with full batches)."""
    regression = _Regression()
    psi = regression.long.theta().numpy()
    expected = np.linalg.solve(regression.hessian(psi), regression.row_gradients(psi).T).T / ROWS
    limit = _scores(regression.long, solver="gmres")
    series = _scores(regression.long, terms=3000)
    numbers = {"GMRES": relative(limit, expected), "3 000 terms": relative(series, expected)}
    return at_most(max(numbers.values()), 1e-8, numbers)


def _scores(trace: gi.Trace, **aid: object) -> np.ndarray:
    """The influence on every parameter, ``(rows, features)``, by ITD, or by AID with these options."""
    metrics = [_Parameters(direction) for direction in torch.eye(FEATURES, dtype=torch.float64)]
    scored = [gi.aid(trace, one, **aid) if aid else gi.itd(trace, one) for one in metrics]  # type: ignore[arg-type]
    return torch.stack(scored, dim=1).numpy()
