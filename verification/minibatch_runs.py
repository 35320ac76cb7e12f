"""LQGAN trained on minibatches by the core and by the dense reference, and what is asked of such runs."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

import gan_influence as gi
from gan_influence.optimizers import LearningRate, Optimizer
from verification import dense_training, toys
from verification.dense_training import Rule, Run

__all__ = [
    "DIRECTION",
    "QUERY",
    "HeldConstant",
    "Reshuffled",
    "practical_run",
    "practical_twin",
    "scores_of_query",
]

QUERY = np.array([0.8, -0.5, 0.3, 0.7])
"""A direction among all four parameters."""

DIRECTION = np.array([1.0, 0.5, 0.0, 0.0])
"""A direction of the generator."""


class Reshuffled:
    """Minibatches as a pure function of (seed, t): rows reshuffled every epoch, fresh latents every step."""

    def __init__(self, rows: int, batch: int, seed: int):
        self.rows, self.batch, self.seed = rows, batch, seed

    def __call__(self, t: int) -> gi.Batch:
        per_epoch = -(-self.rows // self.batch)
        order = torch.randperm(self.rows, generator=_generator(self.seed, t // per_epoch, 0))
        indices = order.split(self.batch)[t % per_epoch]
        latents = torch.randn(len(indices), 1, generator=_generator(self.seed, t, 1), dtype=torch.float64)
        return gi.Batch(indices, latents)


def _generator(*key: int) -> torch.Generator:
    return torch.Generator().manual_seed(int(np.random.SeedSequence(key).generate_state(1)[0]))


@dataclass(frozen=True)
class HeldConstant:
    """An optimiser whose buffers the sweep takes for constants, ``d_epsilon q_t = 0``; training is the same."""

    inner: Optimizer

    @property
    def buffers(self) -> int:
        return self.inner.buffers

    @property
    def lr(self) -> float | Tensor | LearningRate:
        return self.inner.lr

    def update(self, step: Tensor, state: Tensor, gradient: Tensor) -> Tensor:
        held = torch.cat([state[..., :1, :], state[..., 1:, :].detach()], dim=-2)
        return self.inner.update(step, held, gradient)


def practical_twin(rule: Rule, order: str, decay: float, optimizer: Optimizer | None = None) -> tuple[gi.Trace, Run]:
    """Thirty steps on minibatches of 8 of 22 rows, the last of an epoch partial, by the core and by the dense
    reference."""
    steps, schedule = 30, gi.Minibatches(22, 8, (1,), seed=1)
    data = gi.datasets.normal_1d(22, seed=0)
    game = gi.Game(*gi.models.lqgan(seed=1))
    trace = gi.train(game, data, schedule, steps, optimizer or rule.optimizer(), update=order, ema_decay=decay)
    drawn = dense_training.batches(schedule, steps, 22)
    return trace, dense_training.train(data.numpy().ravel(), drawn, trace.theta(0).numpy(), rule, order, decay)


def practical_run(
    seed: int, rule: Rule, steps: int, decay: float = 0.0, sets: np.ndarray | None = None, mean_of_kept: bool = False
) -> Run:
    """LQGAN, 40 rows in minibatches of 8, one player after the other; beside it the runs without each row, and without
    each of ``sets``, (sets, 40), 1 where a row is removed."""
    rows = gi.datasets.normal_1d(40, seed=seed).numpy().ravel()
    start = np.random.default_rng(seed).normal(size=4)
    drawn = dense_training.batches(gi.Minibatches(40, 8, (1,), seed=seed), steps, 40)
    weights = np.vstack([np.ones(40), 1 - np.eye(40), *([] if sets is None else [1 - sets])])
    return dense_training.train(rows, drawn, start, rule, "alternating", decay, weights, mean_of_kept)


def scores_of_query(trace: gi.Trace) -> np.ndarray:
    """The core's influence on ``QUERY``'s direction, as a metric sees the parameters: (N,)."""
    return gi.itd(trace, toys.ParameterMetric(torch.from_numpy(QUERY))).numpy()
