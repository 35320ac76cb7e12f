"""Toys: small games that the core trains, on which the claims are checked, and their dense twins."""

from __future__ import annotations

import itertools
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

import gan_influence as gi
from gan_influence.adjoint import FieldGraph
from gan_influence.metrics.metric import metric_values
from gan_influence.state import State
from gan_influence.step import states
from verification.dense_lqgan import LQGAN

__all__ = ["START", "STEPS", "ParameterMetric", "Toy", "central_differences", "core_jacobian", "lqgan", "mlp", "twin"]


START = (0.6, 0.3, 0.2, -0.3)
"""Where LQGAN trains stably with every loss at the same learning rate."""

STEPS = 0.4 / 2.0 ** np.arange(0, 14)
"""For :func:`central_differences`."""


class ParameterMetric:
    """``<direction, theta>``: its influence is a component of the influence on the parameters (TNNLS Definition 1)."""

    def __init__(self, direction: Tensor):
        self.direction = direction

    def value(self, players: gi.Players) -> Tensor:
        return (self.direction * torch.cat(list(players.parameters.values()))).sum()


@dataclass(frozen=True)
class Toy:
    """A trained small game with its metric."""

    trace: gi.Trace
    metric: gi.metrics.AverageLogLikelihood
    lr: float

    @property
    def twin(self) -> LQGAN:
        """The same LQGAN, dense and independent of torch."""
        return twin(self.trace)

    @property
    def thetas(self) -> np.ndarray:
        """All states, ``(T + 1, d)``."""
        return self.trace.states[:, 0].numpy()

    def metric_gradient(self) -> np.ndarray:
        """``grad E`` at the end, by central differences of the metric's value with Richardson extrapolation."""
        theta = self.trace.theta().clone()
        gradient = np.zeros(len(theta))
        for k in range(len(theta)):
            slopes = []
            for h in (2e-3, 1e-3):
                shift = torch.zeros_like(theta)
                shift[k] = h
                slopes.append(float(self._value(theta + shift) - self._value(theta - shift)) / (2 * h))
            gradient[k] = (4 * slopes[1] - slopes[0]) / 3
        return gradient

    def _value(self, theta: Tensor) -> Tensor:
        with torch.no_grad():
            return self.metric.value(gi.Players(self.trace.game, theta))


def twin(trace: gi.Trace) -> LQGAN:
    """The LQGAN of a run on full batches, at the learning rate of its first step, dense and independent of torch."""
    inputs, rates, l2 = trace.inputs(0), trace.updates.rates(0), trace.game.l2
    return LQGAN(
        inputs.rows.numpy().ravel(),
        inputs.latents.numpy().ravel(),
        eta=rates["generator"],
        l2=(l2["generator"], l2["discriminator"]),
    )


def lqgan(
    rows: int = 40,
    steps: int = 50,
    lr: float = 0.05,
    loss: str | gi.losses.Loss = "minimax",
    l2: tuple[float, float] = (0.0, 0.0),
    seed: int = 0,
    weights: Tensor | None = None,
    start: tuple[float, ...] = (),
) -> Toy:
    """LQGAN on rows of N(1, 1), full batch; the four parameters as in ``start``, or drawn from N(0, 1)."""
    normal = gi.datasets.normal_1d
    game = gi.Game(*gi.models.lqgan(*start, seed=seed), loss=loss, l2=l2)
    latents = normal(rows, mean=0.0, seed=100 + seed)
    trace = gi.train(game, normal(rows, seed=seed), gi.FullBatch(latents), steps, gi.SGD(lr), weights=weights)
    metric = gi.metrics.AverageLogLikelihood(normal(rows, seed=200 + seed), normal(rows, mean=0.0, seed=300 + seed))
    return Toy(trace, metric, lr)


def mlp(
    rows: int = 24,
    steps: int = 20,
    lr: float = 0.1,
    loss: str = "non_saturating",
    seed: int = 0,
    width: int = 6,
    depth: int = 1,
) -> Toy:
    """Two tanh networks of ``depth`` hidden layers on two-dimensional rows, full batch."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        generator, discriminator = _network(3, width, depth, 2), _network(2, width, depth, 1)
        data, reference = torch.randn(2, rows, 2, dtype=torch.float64) + 0.5
        latents, fresh = torch.randn(2, rows, 3, dtype=torch.float64)
    game = gi.Game(generator, discriminator, loss=loss)
    trace = gi.train(game, data, gi.FullBatch(latents), steps, gi.SGD(lr))
    return Toy(trace, gi.metrics.AverageLogLikelihood(reference, fresh), lr)


def _network(inputs: int, width: int, depth: int, outputs: int) -> nn.Module:
    sizes = [inputs, *([width] * depth)]
    hidden = [part for one, other in itertools.pairwise(sizes) for part in (nn.Linear(one, other), nn.Tanh())]
    return nn.Sequential(*hidden, nn.Linear(width, outputs)).double()


def central_differences(toy: Toy, j: int, steps: np.ndarray) -> np.ndarray:
    """-(E(w_j = 1 + h) - E(w_j = 1 - h)) / 2h for every h, all runs trained as one batch of models."""
    shifts = torch.tensor(np.concatenate([steps, -steps]))
    weights = toy.trace.weights.repeat(len(shifts), 1)
    weights[:, j] += shifts
    state = State(toy.trace.state(0).moving.repeat(len(shifts), 1, 1), {})
    *_, (_, end) = states(toy.trace, state, weights, range(toy.trace.steps))
    values = metric_values(toy.metric, toy.trace.game, end.moving[:, 0]).numpy()
    return -(values[: len(steps)] - values[len(steps) :]) / (2 * steps)


def core_jacobian(trace: gi.Trace) -> np.ndarray:
    """J, from the core's products ``J^T e_k``."""
    graph = FieldGraph(trace.game, trace.theta(), trace.inputs(0))
    units: Tensor = torch.eye(trace.game.size, dtype=torch.float64)
    return torch.stack([graph.transpose_product(unit) for unit in units]).numpy()
