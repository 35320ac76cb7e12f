"""Certified scores of an LQGAN's training run: which signs and which ranks are certain, with no row retrained."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

import gan_influence as gi
from gan_influence.models.lqgan import LinearGenerator, QuadraticDiscriminator
from verification import bounds, toys
from verification.bounds import Rows
from verification.dense_lqgan import Array, itd

__all__ = ["Certified", "certify"]


@dataclass(frozen=True)
class Certified:
    """What is known of a run's scores on average log-likelihood, by row.

    Attributes:
        rows: the rows, (J,).
        scores: ITD's, (J,).
        corrected: with the second-order correction of the run and of the metric, (J,): nearer to the truth.
        errors: bounds of |score - what retraining without the row would give|, (J,); infinite where none is known.
    """

    rows: Rows
    scores: Array
    corrected: Array
    errors: Array

    @property
    def tau(self) -> float:
        """A lower bound of Kendall's tau between the scores and retraining."""
        return bounds.rank_certificate(self.scores, self.errors)[0]

    @property
    def signs(self) -> NDArray[np.bool_]:
        """Whether a score's sign is certainly that of retraining, (J,)."""
        return np.asarray(np.abs(self.scores) > self.errors)


def certify(
    trace: gi.Trace, metric: gi.metrics.AverageLogLikelihood, rows: Rows | None = None, reach: float = 1.0
) -> Certified:
    """Bounds of the error of ITD's scores, from one run alone: nothing is retrained, nothing assumed of a retraining.

    The true parameters without row j lie within r_j of ``theta + ITD_j + c_j``, which
    :func:`verification.bounds.certificate` finds. The metric is evaluated there, and varies by at most L r_j around, L
    a bound of its slope: a reference row x pulls at most as the generated point y_k whose |x - y_k| |(z_k, 1)| / h^2 is
    largest.

    It costs a pass of T dense steps for all rows, about what retraining them costs on so small a game; what it adds is
    that nothing was retrained. It says nothing (infinite errors) of rows whose influence may exceed ``reach`` in some
    parameter; a smaller ``reach`` gives up more rows and serves the others better.

    Args:
        trace: of :func:`gan_influence.models.lqgan` with the minimax loss, full batches, SGD at one constant rate for
            both players at once, all weights 1, states in memory.
        metric: of one-dimensional rows.
        rows: which to certify; by default all.
        reach: see above.

    Raises:
        ValueError: the run is another one; says in what. Rigorous suprema of fourth derivatives are known of the LQGAN.
    """
    _check(trace)
    game = toys.twin(trace)
    chosen = np.arange(trace.size) if rows is None else np.asarray(rows, dtype=np.intp)
    run = trace.states[:, 0].numpy()
    influence = itd(game, run)[:, chosen]
    found = bounds.certificate(game, run, influence, chosen, reach=reach)
    scores = gi.itd(trace, metric).numpy()[chosen]

    moved = influence[-1] + found.correction[-1]
    kept = np.isfinite(found.radius[-1])
    radius = np.where(kept, found.radius[-1], 0.0)
    start = run[-1]
    ends = np.where(kept[:, None], start + moved, start)
    corrected = _likelihoods(metric, ends[:, :2]) - _likelihoods(metric, start[None, :2])
    slope = _steepest(
        metric, start[:2], float(np.abs(moved[kept]).sum(axis=1).max(initial=0.0) + radius.max(initial=0.0))
    )
    rounding = 1e-12 * (1.0 + np.abs(scores))
    errors = np.where(kept, np.abs(scores - corrected) + slope * radius + rounding, np.inf)
    return Certified(chosen, scores, np.where(kept, corrected, scores), errors)


def _check(trace: gi.Trace) -> None:
    game, updates = trace.game, trace.updates
    modules = game.generator.module, game.discriminator.module
    first, last = trace.inputs(0), trace.inputs(max(trace.steps - 1, 0))
    rules = list(updates.optimizers.values())
    plain = all(isinstance(one, gi.SGD) and one == gi.SGD(one.lr) and not callable(one.lr) for one in rules)
    wrong = {
        "a game of gi.models.lqgan": isinstance(modules[0], LinearGenerator)
        and isinstance(modules[1], QuadraticDiscriminator),
        'loss="minimax"': game.loss is gi.losses.LOSSES["minimax"],
        "full batches": first.indices is None and last.indices is None,
        "plain SGD at one constant rate": plain and rules[0] == rules[1],
        'update="simultaneous"': updates.update == "simultaneous",
        "no averaged generator": not updates.decays,
        "weights of 1": bool((trace.weights == 1).all()),
    }
    for what, right in wrong.items():
        if not right:
            raise ValueError(f"certify needs {what}: only there its constants are known to be rigorous")


def _points(metric: gi.metrics.AverageLogLikelihood) -> tuple[Array, Array, float]:
    """The reference rows, the latents and the bandwidth."""
    reference = (metric.centered + metric.center).numpy().ravel()
    return reference, metric.latents.numpy().ravel(), metric.bandwidth


def _likelihoods(metric: gi.metrics.AverageLogLikelihood, phi: Array) -> Array:
    """The metric of each of these generators, (J, 2) -> (J,), a few at a time."""
    x, z, h = _points(metric)
    found = []
    for part in np.array_split(phi, max(len(phi) * len(x) * len(z) // 2**22, 1)):
        generated = part[:, :1] * z + part[:, 1:]
        exponents = -0.5 * ((x[:, None] - generated[:, None, :]) / h) ** 2
        highest = exponents.max(axis=-1, keepdims=True)
        sums = np.log(np.exp(exponents - highest).mean(axis=-1)) + highest[..., 0]
        found.append(sums.mean(axis=-1) - 0.5 * np.log(2 * np.pi * h**2))
    return np.concatenate(found)


def _steepest(metric: gi.metrics.AverageLogLikelihood, phi: Array, reach: float) -> float:
    """A bound of the metric's slope in phi within ``reach``."""
    x, z, h = _points(metric)
    length = np.hypot(z, 1.0)
    distance = np.abs(x[:, None] - (phi[0] * z + phi[1])) + reach * length
    return float((distance * length / h**2).max(axis=1).mean())
