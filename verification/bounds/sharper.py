"""Error bounds beyond the paper: its recursions and fixed points with more of the game kept whole."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from verification.bounds.constants import Constants, Rows, constants
from verification.bounds.norms import trilinear_norm, whiten
from verification.bounds.regions import MARGIN, ball_box
from verification.bounds.suprema import derivative_suprema, sigmoid_suprema
from verification.dense_lqgan import LQGAN, SIGNS, Array

__all__ = [
    "EquilibriumShift",
    "aid_certificate",
    "aid_from_where_it_stands",
    "direct_recursion",
    "equilibrium_shift",
    "itd_in_ball",
]


def direct_recursion(c: Constants, steps: int, step_norms: Array | None = None) -> Array:
    """(a) |ITD - true influence| from the error's own recursion, t = 0 ... T: (T + 1, J).

    Taylor at theta^(t) with the integral remainder: e_{t+1} = Z(theta^(t)) e_t + R_t and
    |R_t| <= eta L_f' d_t + (eta L_J / 2) d_t^2 with d_t >= |Delta theta_{-j}^(t)|, hence |e_t| <= r_t for

        d_{t+1} = sigma_t d_t + eta L_f,    r_{t+1} = |Z(theta^(t))| r_t + eta L_f' d_t + (eta L_J / 2) d_t^2.

    With one set of constants (`Constants.worst`) this is Theorem 1 with L_J / 2 for L_J, at every sigma, 1
    included. With constants a step (T boxes of `boxes_between(..., chunk=1)`, the last point left out) and
    `step_norms` = |Z(theta^(t))|, (T,), it is far less.
    """
    rows = np.shape(c.row_gradient)[-1]
    gain = np.broadcast_to(np.reshape(c.sigma, (-1, 1)), (steps, rows))
    local = gain if step_norms is None else np.broadcast_to(step_norms[:, None], (steps, rows))
    lipschitz = np.broadcast_to(np.reshape(c.lipschitz, (-1, 1)), (steps, rows))
    gradient, curvature = (np.broadcast_to(v, (steps, rows)) for v in (c.row_gradient, c.row_curvature))
    error, distance = np.zeros((steps + 1, rows)), np.zeros(rows)
    for t in range(steps):
        remainder = curvature[t] * distance + 0.5 * lipschitz[t] * distance**2
        error[t + 1] = local[t] * error[t] + c.eta * remainder
        distance = gain[t] * distance + c.eta * gradient[t]
    return error


@dataclass(frozen=True)
class EquilibriumShift:
    """theta*_{-j} - theta* = limit + error, in a norm W: limit (J, 4), |W (shift)| and |W error| at most (J,)."""

    limit: Array
    distance: Array
    error: Array


def equilibrium_shift(game: LQGAN, equilibrium: Array, rows: Rows, whitening: Array, radius: float) -> EquilibriumShift:
    """(b) Lemma 6 and (38) with the inverse kept whole, in the norm |W x|, on the ball |W (theta - theta*)| <= radius.

    With a_j = (I - Z(theta*))^{-1} Delta v_{-j}(theta*), AID's limit (12), the shift x is a fixed point of

        x = a_j - J(theta*)^{-1} (v(theta* + x) - J(theta*) x + (1/N) (grad f_j(theta* + x) - grad f_j(theta*)))
        |x - a_j| <= kappa_j |x| + (K / 2) |x|^2,   kappa_j = sup |J^{-1} hess f_j| / N,  K = sup |J^{-1} V'''|.

    The least d with |a_j| + kappa_j d + (K / 2) d^2 <= d makes the right side map the ball of radius d into itself, so
    by Brouwer theta*_{-j} exists there. Infinite for a row where no such d <= `radius` exists.
    """
    half = ball_box(equilibrium, radius, whitening).radius[0]
    lipschitz, kappa = _solved_curvatures(game, equilibrium, rows, whitening, half)
    limit = np.linalg.solve(game.eta * game.jacobian(equilibrium), game.row_jumps(equilibrium)[rows].T).T
    distance = _least_ball(np.linalg.norm(limit @ whitening.T, axis=1), kappa, lipschitz, radius)
    return EquilibriumShift(limit, distance, kappa * distance + 0.5 * lipschitz * distance**2)


def _solved_curvatures(game: LQGAN, center: Array, rows: Rows, whitening: Array, half: Array) -> tuple[float, Array]:
    """K = sup |J^{-1} V'''| and kappa_j = sup |J^{-1} hess f_j| / N, (J,), J = J(center), on {|theta -
    center| <= half}, in the norm |W x|."""
    backward, solve = np.linalg.inv(whitening), whitening @ np.linalg.inv(game.jacobian(center))
    suprema = derivative_suprema(game, center, half)
    spread = suprema.fourth @ half + MARGIN * suprema.third
    exact = trilinear_norm(whiten(SIGNS[:, None, None] * game.third(center), solve, backward))
    lipschitz = exact + trilinear_norm(whiten(spread, np.abs(solve), np.abs(backward)))
    k = game.features[rows]
    curvature = sigmoid_suprema(k @ center[2:], np.abs(k) @ half[2:]).second / game.rows.size
    slope = np.linalg.norm(k @ solve[:, 2:].T, axis=1) * np.linalg.norm(k @ backward[2:], axis=1)
    return lipschitz, (1.0 + MARGIN) * curvature * slope


def _least_ball(size: Array, kappa: Array | float, lipschitz: float, radius: float) -> Array:
    """The least d with size + kappa d + (K / 2) d^2 <= d; infinite where there is none of at most `radius`."""
    size = (1.0 + MARGIN) * size
    gap = 1.0 - np.asarray(kappa)
    discriminant = gap**2 - 2.0 * lipschitz * size
    root = np.sqrt(np.maximum(discriminant, 0.0))
    distance = (1.0 + MARGIN) * 2.0 * size / np.maximum(gap + root, MARGIN)
    return np.where((gap > 0.0) & (discriminant > 0.0) & (distance <= radius), distance, np.inf)


def aid_from_where_it_stands(game: LQGAN, theta: Array, rows: Rows, whitening: Array, radius: float) -> Array:
    """(e) |a_j - (theta*_{-j} - theta*)| <= error_j, (J,), in the norm |W x|, from theta = theta^(T) alone.

    a_j = (I - Z(theta))^{-1} Delta v_{-j}(theta) is AID's limit there. Neither theta* nor mu is used: with x0 =
    -J(theta)^{-1} v(theta), the equilibria theta + x and theta + x_j are fixed points of

        x   = x0       - J^{-1} (v(theta + x) - v(theta) - J x)
        x_j = x0 + a_j - J^{-1} (v(theta + x_j) - v(theta) - J x_j + (1/N) (grad f_j(theta + x_j) - grad f_j(theta)))

    (Newton-Kantorovich). By Brouwer they exist within r and r_j, the least with |x0| + (K / 2) r^2 <= r and
    |x0 + a_j| + kappa_j r_j + (K / 2) r_j^2 <= r_j, and subtracting the two lines leaves

        |x_j - x - a_j| <= kappa_j r_j + (K / 2) (r_j^2 + r^2).

    Infinite for a row where r or r_j exceeds `radius`, on whose ball K and kappa_j hold.
    """
    half = ball_box(theta, radius, whitening).radius[0]
    lipschitz, kappa = _solved_curvatures(game, theta, rows, whitening, half)
    inverse = np.linalg.inv(game.jacobian(theta))
    start = -inverse @ game.velocity(theta)
    limit = np.linalg.solve(game.eta * game.jacobian(theta), game.row_jumps(theta)[rows].T).T
    own = _least_ball(np.asarray(np.linalg.norm(whitening @ start)), 0.0, lipschitz, radius)
    of_row = _least_ball(np.linalg.norm((start + limit) @ whitening.T, axis=1), kappa, lipschitz, radius)
    return kappa * of_row + 0.5 * lipschitz * (of_row**2 + own**2)


def aid_certificate(
    game: LQGAN, run: Array, equilibrium: Array, estimate: Array, rows: Rows, whitening: Array, radius: float
) -> Array:
    """(b) |AID - true influence| in the norm |W x|, where J(theta*) need not be monotone: (J,).

    `run` is theta^(t0) ... theta^(T), `estimate` (J, 4) the AID influence (any M) and the counterfactual starts from
    theta^(t0). The steps of Theorem 2 with its first two parts measured instead of bounded, and the last one by
    the contraction s_j of Z_{-j} on the ball |W (theta - theta*)| <= radius:

        |AID - a_j| + |theta*_{-j} - theta* - a_j| + |theta^(T) - theta*| + s_j^{T - t0} |theta^(t0) - theta*_{-j}|

    Infinite for a row whose counterfactual the ball is not known to hold: it needs |theta^(t0) - theta*| + 2 d_j <=
    radius and s_j < 1, d_j the distance of `equilibrium_shift`.
    """
    shift = equilibrium_shift(game, equilibrium, rows, whitening, radius)
    ball = ball_box(equilibrium, radius, whitening)
    contraction = constants(game, ball, rows, whitening, reach=radius).worst().sigma_removed
    start, end = np.linalg.norm((run[[0, -1]] - equilibrium) @ whitening.T, axis=1)
    inside = (start + 2.0 * shift.distance <= radius) & (contraction < 1.0)
    measured = np.linalg.norm((estimate - shift.limit) @ whitening.T, axis=1)
    settling = end + contraction ** (len(run) - 1) * (start + shift.distance)
    return np.where(inside, measured + shift.error + settling, np.inf)


def itd_in_ball(c: Constants, influence_norms: Array) -> Array:
    """(b) Corollary 2 with the influence measured: r_t >= |ITD - true influence| in the constants' norm, (T + 1, J).

    `influence_norms` = |W ITD_t|, (T + 1, J); `c` holds on a ball that contains run and counterfactual:

        r_{t+1} = sigma r_t + eta L_f' (|ITD_t| + r_t) + (eta L_J / 2) (|ITD_t| + r_t)^2.

    The ball holds the counterfactual when |W (theta^(t) - theta*)| + |W ITD_t| + r_t <= radius at every t. Where
    it overflows nothing is certified.
    """
    error = np.zeros_like(influence_norms)
    for t, norm in enumerate(influence_norms[:-1]):
        distance = norm + error[t]
        with np.errstate(over="ignore"):
            error[t + 1] = c.sigma * error[t] + c.eta * (c.row_curvature + 0.5 * c.lipschitz * distance) * distance
    return error
