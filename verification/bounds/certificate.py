"""A certificate of one run: how far ITD is from the true influence, without retraining, and what ranks follow."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from verification.bounds.constants import Rows
from verification.bounds.norms import run_norms, trilinear_norm, whiten
from verification.bounds.regions import MARGIN
from verification.bounds.suprema import derivative_suprema, sigmoid_suprema
from verification.dense_lqgan import LQGAN, SIGNS, Array

__all__ = ["Certificate", "Frame", "certificate", "next_radius", "rank_certificate"]


def rank_certificate(scores: Array, errors: Array) -> tuple[float, float]:
    """(d) Kendall's tau of the scores against the truth is at least the first number, from |score - truth| <= error.

    A pair whose scores differ by more than the sum of its errors is ordered rightly; every other pair is counted as a
    wrong one. The second number is the share of rows whose sign is certain, |score| > error.
    """
    count = len(scores)
    certain = np.abs(scores[:, None] - scores) > errors[:, None] + errors
    pairs = count * (count - 1) / 2
    doubtful = pairs - np.triu(certain, 1).sum()
    return float(1.0 - 2.0 * doubtful / pairs), float(np.mean(np.abs(scores) > errors))


@dataclass(frozen=True)
class Certificate:
    """|ITD + correction - true influence| <= radius, a row and a step: (T + 1, J, 4) and (T + 1, J)."""

    correction: Array
    radius: Array

    @property
    def error(self) -> Array:
        """Bound of |ITD - true influence|, Euclidean: (T + 1, J); infinite where nothing is certified."""
        return np.linalg.norm(self.correction, axis=-1) + self.radius


def certificate(
    game: LQGAN,
    trajectory: Array,
    influence: Array,
    rows: Rows,
    rate: float = 1.0,
    reach: float = 1.0,
    members: NDArray[np.bool_] | None = None,
) -> Certificate:
    """(c) An a-posteriori bound of this run's ITD error for `rows`, or sets of them, without retraining.

    `trajectory` (T + 1, 4) is the run, `influence` (T + 1, J, 4) its ITD influence of `rows`; with `members`,
    (J, rows), of J sets of them, whose influences, Delta v_{-S} and B_S are sums over the set. The true influence obeys
    Delta_{t+1} = F_t(Delta_t); with S = diag(1, 1, -1, -1), B_j = d Delta v_{-j} / d theta, Taylor at theta^(t) reads

        F_t(d) = Z_t d + Delta v_{-j} + B_j d - (eta / 2) S V'''[d, d] + rest,
        |rest| <= (eta / 6) |V''''| |d|^3 + (eta / 2N) |f'''| (k.d)^2 |k|       suprema on the segment to theta + d.

    The second-order correction  c_{t+1} = Z_t c_t + B_j u_t - (eta / 2) S V'''[u_t, u_t],  u = ITD + c, is followed
    exactly, and what is left, Delta - u, is bounded by |W_t (Delta_t - u_t)| <= r_t, with

        r_{t+1} = |Z_t + B_j - eta S V'''[u_t, .]| r_t + (eta / 2) |V'''| r_t^2 + |rest|

    in the norms W of `run_norms`. The induction closes by itself: u_t and r_t bound Delta_t, so they say on which
    box around theta^(t) the suprema of step t must hold. Nothing is assumed of the counterfactual run.

    A row whose influence may exceed `reach` in some parameter is given up: infinite from there on. `rate` only
    shapes the norms; any value gives a valid bound.
    """
    total = len(trajectory) - 1
    matrices = np.array([game.step_matrix(theta) for theta in trajectory[:total]]).reshape(total, 4, 4)
    norms = run_norms(matrices, rate)
    sets = np.eye(len(rows)) if members is None else members.astype(float)
    correction, radius = np.zeros((total + 1, len(sets), 4)), np.zeros((total + 1, len(sets)))
    rest: Array = np.zeros(len(sets))
    for t, theta in enumerate(trajectory[:total]):
        guess = np.where(np.isfinite(rest)[:, None], influence[t] + correction[t], 0.0)
        jumps = np.tensordot(sets, game.row_jump_jacobians(theta)[rows], 1)
        third = SIGNS[:, None, None] * game.third(theta)
        linear = correction[t] @ matrices[t].T + np.einsum("jab,jb->ja", jumps, guess)
        bent = np.einsum("abc,jb,jc->ja", third, guess, guess, optimize=True)
        frame = Frame(norms[t + 1], np.linalg.inv(norms[t]))
        rest = next_radius(game, theta, matrices[t], jumps, third, guess, rest, frame, rows, reach, sets)
        correction[t + 1] = np.where(np.isfinite(rest)[:, None], linear - 0.5 * game.eta * bent, 0.0)
        radius[t + 1] = rest * np.linalg.norm(np.linalg.inv(norms[t + 1]), 2)
    return Certificate(correction, radius)


@dataclass(frozen=True)
class Frame:
    """Coordinates of one step: W_{t+1} for what comes out, W_t^{-1} for what goes in."""

    forward: Array
    backward: Array


def next_radius(
    game: LQGAN,
    theta: Array,
    matrix: Array,
    jumps: Array,
    third: Array,
    guess: Array,
    radius: Array,
    frame: Frame,
    rows: Rows,
    reach: float,
    sets: Array,
) -> Array:
    """r_{t+1} of `certificate` from r_t: (J,)."""
    extent = np.abs(guess) + radius[:, None] * np.linalg.norm(frame.backward, axis=1)
    alive = (extent <= reach).all(axis=1)
    extent, radius = np.where(alive[:, None], extent, 0.0), np.where(alive, radius, 0.0)
    fourth = derivative_suprema(game, theta, extent.max(axis=0)).fourth
    bilinear = trilinear_norm(whiten(third, frame.forward, frame.backward))
    cubic = np.einsum("abcd,jb,jc,jd->ja", fourth, extent, extent, extent, optimize=True)

    k = game.features[rows]
    along = extent[:, 2:] @ np.abs(k).T
    logits = k @ theta[2:]
    push = np.linalg.norm(k @ frame.forward[:, 2:].T, axis=1) / game.rows.size
    tangent = matrix + jumps - game.eta * np.einsum("abc,jc->jab", third, guess)
    gain = np.linalg.norm(frame.forward @ tangent @ frame.backward, 2, axis=(1, 2))
    rest = np.linalg.norm(cubic @ np.abs(frame.forward).T, axis=1) / 6.0
    rest += 0.5 * (np.sum(sets * push * sigmoid_suprema(logits, along).third * along**2, axis=1) + bilinear * radius**2)
    return np.where(alive, (1.0 + MARGIN) * (gain * radius + game.eta * rest), np.inf)
