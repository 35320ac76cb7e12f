"""What the experiments with SGD-influence share (Hara et al. 2019): data, training and K&L as in the authors' code."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn

import gan_influence as gi
from gan_influence.solvers.protocol import Operator, Solution, Solver

__all__ = [
    "FILES",
    "Once",
    "Problem",
    "ValidationLoss",
    "binary_problem",
    "cross_validated_l2",
    "schedule_of",
    "without_hessian",
]

FILES = {
    "adult": ["adult/adult-training.csv.gz", "adult/adult-test.csv.gz"],
    "20news": ["20news/train.json.gz", "20news/test.json.gz"],
    "mnist": ["mnist/train-images-idx3-ubyte.gz", "mnist/train-labels-idx1-ubyte.gz"],
    "digits": [],
}
HELD_OUT_BY_THE_TUTORIAL = 5000  # MNIST's first training rows, which TensorFlow's tutorial keeps for validation
FOLDS = 5


class Problem(NamedTuple):
    """Training and validation rows, standardised by the former, with labels 0 and 1."""

    train: gi.datasets.Table
    validation: gi.datasets.Table


def binary_problem(data: str, rows: int, seed: int) -> Problem:
    """As many training, validation and test rows, of which the last are not used (section 7.1).

    Args:
        data: ``adult``, ``20news``, ``mnist``, of which ones (0) and sevens (1); or scikit-learn's ``digits``, of which
            ones and eights, which are harder to tell apart there.
        rows: of each part.
        seed: of the first split; the second has the next one.
    """
    from sklearn.model_selection import train_test_split
    from sklearn.preprocessing import StandardScaler

    inputs, labels = _table(data)
    x, others, y, labels_of_others = train_test_split(
        inputs.numpy(), labels.numpy(), train_size=rows, test_size=2 * rows, random_state=seed
    )
    held_out, _, y_held_out, _ = train_test_split(
        others, labels_of_others, train_size=rows, test_size=rows, random_state=seed + 1
    )
    scaler = StandardScaler().fit(x)
    return Problem(
        *(
            gi.datasets.Table(torch.from_numpy(scaler.transform(part)), torch.from_numpy(targets))
            for part, targets in ((x, y), (held_out, y_held_out))
        )
    )


@lru_cache(maxsize=len(FILES))
def _table(data: str) -> gi.datasets.Table:
    if data == "adult":
        return gi.datasets.adult()
    if data == "20news":
        return gi.datasets.newsgroups()
    images = gi.datasets.digits() if data == "digits" else gi.datasets.mnist("train")
    start = HELD_OUT_BY_THE_TUTORIAL if data == "mnist" else 0
    shown, labels = images.images[start:], images.labels[start:]
    parts = [shown[labels == digit].flatten(1).double() for digit in (1, 8 if data == "digits" else 7)]
    targets = torch.cat([torch.full((len(part),), label) for label, part in enumerate(parts)])
    return gi.datasets.Table((torch.cat(parts) + 1) / 2, targets)


def cross_validated_l2(train: gi.datasets.Table, seed: int) -> float:
    """``1 / (N C)`` with scikit-learn's C by cross-validation, of logistic regression without intercept."""
    from sklearn.linear_model import LogisticRegressionCV

    with warnings.catch_warnings():  # of its iterations' number, and of options to come
        warnings.simplefilter("ignore")
        fitted = LogisticRegressionCV(random_state=seed, fit_intercept=False, cv=FOLDS)
        fitted.fit(train.inputs.numpy(), train.targets.numpy())
    return float(1 / (np.ravel(fitted.C_)[0] * len(train.targets)))


def _cross_entropy(logits: Tensor, targets: Tensor) -> Float[Tensor, " rows"]:
    logits = logits.flatten()
    return nn.functional.binary_cross_entropy_with_logits(logits, targets.to(logits.dtype), reduction="none")


@dataclass(frozen=True)
class ValidationLoss:
    """The mean cross-entropy of validation rows, without L2, whatever cost the game has."""

    rows: gi.datasets.Table
    larger_is_better = False

    def value(self, players: gi.Players) -> Float[Tensor, ""]:
        return _cross_entropy(players.model(self.rows.inputs), self.rows.targets).mean()


def schedule_of(rows: int, batch: int, epochs: int) -> gi.Schedule:
    """The authors' batches, epoch e being NumPy's permutation of seed e in every run; past the end all rows a step."""
    parts = -(-rows // batch)
    batches = [
        gi.Batch(torch.from_numpy(indices))
        for epoch in range(epochs)
        for indices in np.array_split(np.random.RandomState(epoch).permutation(rows), parts)
    ]
    return lambda t: batches[t] if t < len(batches) else gi.Batch(None)


def without_hessian(trace: gi.Trace, metric: Any, rates: Sequence[float]) -> Float[Tensor, " N"]:
    """SGD-influence with every Z = I: ``sum over steps t with row j of (eta_t / |S_t|) <grad l_j(theta_t), grad E>``.

    Args:
        trace: a run of SGD of one player.
        metric: E.
        rates: eta of each step.
    """
    game, scores = trace.game, torch.zeros(trace.size, dtype=trace.weights.dtype)
    end = trace.theta().clone().requires_grad_()
    (u,) = torch.autograd.grad(metric.value(gi.Players(game, end)), end)
    for t, rate in enumerate(rates):
        batch = trace.inputs(t)
        theta, weights = trace.theta(t).clone().requires_grad_(), torch.ones_like(batch.weights).requires_grad_()
        cost = weights @ game.trained(gi.Players(game, theta), batch).rows["model"]
        (gradient,) = torch.autograd.grad(cost, theta, create_graph=True)
        (slopes,) = torch.autograd.grad(gradient @ u, weights)
        scores[trace.batch(t).indices] += rate / len(slopes) * slopes
    return scores


class Once:
    """A solver that keeps its solution's largest relative residual, and tells nobody when it is large.

    Attributes:
        residual: of the last solution; infinite where it diverged.
    """

    def __init__(self, solver: Solver):
        self._solver, self.residual = solver, float("inf")

    def solve(self, operator: Operator, b: Float[Tensor, "k d"], *, progress: bool = False) -> Solution:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", RuntimeWarning)
            found = self._solver.solve(operator, b, progress=progress)
        if found.converged is None or bool(torch.as_tensor(found.converged).all()):
            self.residual = float(torch.as_tensor(found.residual).max())
        return found
