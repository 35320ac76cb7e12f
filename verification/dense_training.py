"""A dense reference for training as it is done: RMSProp and Adam, players in turn, minibatches, an averaged generator.

LQGAN in closed form (:mod:`verification.dense_lqgan`), in NumPy, for many games at once: each row weight its own game.
A phase moves some of the four parameters, in TNNLS Appendix B-B's notation and with Adam's first moment m and bias
corrections beside it,

    q <- alpha q + (1 - alpha) v^2,  m <- beta m + (1 - beta) v,  theta <- theta - eta m / (sqrt(q) + delta)

and the derivative of all of it in a row's weight is carried forwards, beside the run: the other direction than the
sweep of ``gan_influence``, and no autograd.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import numpy as np

import gan_influence as gi
from verification.dense_lqgan import LQGAN, Array

__all__ = ["EXACT", "Batch", "Rule", "Run", "Shortcut", "batches", "influence", "train"]

BOTH = np.ones(4, dtype=bool)
GENERATOR, DISCRIMINATOR = np.array([True, True, False, False]), np.array([False, False, True, True])
ORDERS = {"simultaneous": (BOTH,), "alternating": (DISCRIMINATOR, GENERATOR)}

Batch = tuple[np.ndarray, Array]
"""The indices of a step's rows, and its latents."""


@dataclass(frozen=True)
class Rule:
    """RMSProp; with ``corrected`` Adam, whose ``beta`` = 0 is RMSProp with bias correction."""

    eta: float
    alpha: float
    beta: float = 0.0
    corrected: bool = False
    delta: float = 1e-8

    def optimizer(self) -> gi.RMSProp | gi.Adam:
        """The same of ``gan_influence``."""
        if self.corrected:
            return gi.Adam(self.eta, betas=(self.beta, self.alpha), eps=self.delta)
        return gi.RMSProp(self.eta, alpha=self.alpha, eps=self.delta)

    def corrections(self, t: int) -> tuple[float, float]:
        """What the first and the second moment are divided by at step t."""
        return (1 - self.beta ** (t + 1), 1 - self.alpha ** (t + 1)) if self.corrected else (1.0, 1.0)


class Phase(NamedTuple):
    """Which parameters move; J, v and the rows' jumps (for eta = 1) there; the moments before it."""

    moving: Array
    jacobian: Array
    velocity: Array
    jumps: Array
    first: Array
    second: Array


@dataclass(frozen=True)
class Run:
    """Training of games that differ in their row weights: all states, ``(T + 1, games, 4)`` each.

    Attributes:
        theta, first, second: parameters and moments.
        average: the parameters with the averaged generator, which metrics see.
    """

    rows: Array
    batches: list[Batch]
    rule: Rule
    order: str
    decay: float
    theta: Array
    first: Array
    second: Array
    average: Array

    @property
    def steps(self) -> int:
        return len(self.batches)

    @cached_property
    def phases(self) -> list[list[Phase]]:
        """The first game's phases, step by step."""
        return [self._phases_of(t) for t in range(self.steps)]

    def _phases_of(self, t: int) -> list[Phase]:
        indices, latents = self.batches[t]
        game = LQGAN(self.rows[indices], latents, eta=1.0)
        theta, moments = self.theta[t, 0], (self.first[t, 0], self.second[t, 0])
        phases = []
        for moving in ORDERS[self.order]:
            phases.append(Phase(moving, game.jacobian(theta), game.velocity(theta), game.row_jumps(theta), *moments))
            theta = np.where(moving, self.theta[t + 1, 0], theta)
        return phases


@dataclass(frozen=True)
class Shortcut:
    """What an estimator leaves out of the derivative.

    Attributes:
        second: ``"exact"``; ``"held"``: the second moment of the step before is a constant, ``d q_t = 0`` (TNNLS
            Appendix B-B); ``"frozen"``: that of the step itself, too.
        final_state: the generator's moments, and its count of steps, are those of the end of training at every step.
        scale: of every step's change.
    """

    second: str = "exact"
    final_state: bool = False
    scale: float = 1.0


EXACT = Shortcut()


def batches(schedule: gi.FullBatch | gi.Minibatches, steps: int, rows: int) -> list[Batch]:
    """The first steps of a schedule."""
    drawn = []
    for t in range(steps):
        indices, latents, _ = schedule(t)
        assert latents is not None
        drawn.append((np.arange(rows) if indices is None else np.asarray(indices), latents.numpy().ravel()))
    return drawn


def train(
    rows: Array,
    batches: list[Batch],
    start: Array,
    rule: Rule,
    order: str = "simultaneous",
    decay: float = 0.0,
    weights: Array | None = None,
    mean_of_kept: bool = False,
) -> Run:
    """Train one game for each of ``weights``, ``(games, N)``; by default one, whose weights are 1.

    With ``mean_of_kept`` the rows of weight 0 leave the denominator, too, unlike in TNNLS eq. 6 and 43.
    """
    weights = np.ones((1, len(rows))) if weights is None else weights
    theta = np.tile(start, (len(weights), 1))
    first, second, average = np.zeros_like(theta), np.zeros_like(theta), theta
    kept = [(theta, first, second, average)]
    for t, (indices, latents) in enumerate(batches):
        game, of_batch = LQGAN(rows[indices], latents, eta=1.0), weights[:, indices]
        if mean_of_kept:
            of_batch = of_batch * len(indices) / np.maximum(of_batch.sum(axis=1, keepdims=True), 1)
        for moving in ORDERS[order]:
            v = game.velocity(theta, of_batch)
            first = np.where(moving, rule.beta * first + (1 - rule.beta) * v, first)
            second = np.where(moving, rule.alpha * second + (1 - rule.alpha) * v * v, second)
            of_first, of_second = rule.corrections(t)
            change = first / of_first / (np.sqrt(second / of_second) + rule.delta)
            theta = np.where(moving, theta - rule.eta * change, theta)
        average = np.where(GENERATOR, decay * average + (1 - decay) * theta, theta)
        kept.append((theta, first, second, average))
    return Run(rows, batches, rule, order, decay, *(np.stack(parts) for parts in zip(*kept, strict=True)))


def influence(run: Run, shortcut: Shortcut = EXACT) -> Array:
    """- d average / d w_j along the run's first game, for every row, after every step: (T + 1, N, 4)."""
    rule = run.rule
    d_theta, d_first, d_second, d_average = np.zeros((4, len(run.rows), 4))
    kept = [d_average]
    for t, phases in enumerate(run.phases):
        for moving, jacobian, v, jumps, first, second in phases:
            dv = d_theta @ jacobian.T
            dv[run.batches[t][0]] -= jumps
            final = shortcut.final_state and bool(moving[0])
            first, second = (run.first[-1, 0], run.second[-1, 0]) if final else (first, second)
            change = _Change(rule, run.steps if final else t, v, first, second)
            of_first, of_second, moved = change.derivative(dv, d_first, d_second, shortcut.second)
            d_first, d_second = np.where(moving, of_first, d_first), np.where(moving, of_second, d_second)
            d_theta = np.where(moving, d_theta - shortcut.scale * rule.eta * moved, d_theta)
        d_average = np.where(GENERATOR, run.decay * d_average + (1 - run.decay) * d_theta, d_theta)
        kept.append(d_average)
    return np.stack(kept)


@dataclass(frozen=True)
class _Change:
    """m / (sqrt(q) + delta) at one step, from the moments of the step before and v."""

    rule: Rule
    t: int
    v: Array
    first: Array
    second: Array

    def derivative(self, dv: Array, d_first: Array, d_second: Array, how: str) -> tuple[Array, Array, Array]:
        """The derivatives of both moments and of the change."""
        rule, (of_first, of_second) = self.rule, self.rule.corrections(self.t)
        first = rule.beta * self.first + (1 - rule.beta) * self.v
        second = rule.alpha * self.second + (1 - rule.alpha) * self.v**2
        d_first = rule.beta * d_first + (1 - rule.beta) * dv
        of_before = rule.alpha * d_second if how == "exact" else np.zeros_like(d_second)
        own = np.zeros_like(dv) if how == "frozen" else 2 * (1 - rule.alpha) * self.v * dv
        d_second = of_before + own
        root = np.sqrt(second / of_second)
        d_root = np.divide(d_second / of_second, 2 * root, out=np.zeros_like(d_second), where=root > 0)
        denominator = root + rule.delta
        change = d_first / of_first / denominator - first / of_first / denominator**2 * d_root
        return d_first, d_second, change
