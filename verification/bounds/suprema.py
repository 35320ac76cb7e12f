"""Suprema of the derivatives of f = log sigmoid over intervals of logits, and of V over boxes. None is sampled.

Let c be the centre of a box. With D's logit polynomial a(theta) of degree 3, the Taylor polynomial of a at c is exact,
which bounds |a|, |grad a|, |hess a| on the box for every row and latent; the derivatives of f are bounded on the
resulting interval of logits, |f'| <= 1, |f''| <= 1/4, |f'''| <= 1/(6 sqrt 3), |f''''| <= 1/8 at worst (in q =
s (1 - s): q, q sqrt(1 - 4 q), |q - 6 q^2|). Averages of products of these bound the third and fourth derivatives of V
entry by entry.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import combinations

import numpy as np
from scipy.special import expit

from verification.bounds.regions import MARGIN
from verification.dense_lqgan import LQGAN, Array, fake_logits

__all__ = ["DerivativeSuprema", "SigmoidSuprema", "derivative_suprema", "sigmoid_suprema"]


@dataclass(frozen=True)
class SigmoidSuprema:
    """Suprema of |f''|, |f'''|, |f''''| for f = log sigmoid over intervals of logits; the same for g(a) = f(-a)."""

    second: Array
    third: Array
    fourth: Array


def sigmoid_suprema(logits: Array, halfwidth: Array) -> SigmoidSuprema:
    """Suprema over [logits - halfwidth, logits + halfwidth], through q = s (1 - s) in [q_low, q_high]."""
    nearest = np.maximum(np.abs(logits) - halfwidth, 0.0)
    furthest = np.abs(logits) + halfwidth
    high, low = expit(nearest) * expit(-nearest), expit(furthest) * expit(-furthest)
    third = [q * np.sqrt(np.maximum(1.0 - 4.0 * q, 0.0)) for q in (low, high)]
    fourth = [np.abs(q - 6.0 * q * q) for q in (low, high)]
    has_third_peak = (low <= 1.0 / 6.0) & (high >= 1.0 / 6.0)
    has_fourth_peak = (low <= 1.0 / 12.0) & (high >= 1.0 / 12.0)
    return SigmoidSuprema(
        high,
        np.where(has_third_peak, 1.0 / (6.0 * np.sqrt(3.0)), np.maximum(*third)),
        np.maximum(np.where(has_fourth_peak, 1.0 / 24.0, 0.0), np.maximum(*fourth)),
    )


def _over_splits(tensor: Array, head: int) -> Array:
    """Sum of `tensor` over the ways to hand `head` of its indices to its leading axes, the others in order."""
    order = tensor.ndim
    total = np.zeros_like(tensor)
    for chosen in combinations(range(order), head):
        rest = tuple(k for k in range(order) if k not in chosen)
        total += np.transpose(tensor, np.argsort(chosen + rest))
    return total


def _moment(weights: Array, left: Array, right: Array) -> Array:
    """Mean over n of weights_n left_n (x) right_n, one matrix product: (N,), (N, ...), (N, ...) -> (..., ...)."""
    flat = (weights[:, None] * left.reshape(len(left), -1)).T @ right.reshape(len(right), -1)
    return flat.reshape(left.shape[1:] + right.shape[1:]) / len(weights)


def _outer(left: Array, right: Array) -> Array:
    """left_n (x) right_n for vectors: (N, a), (N, b) -> (N, a, b)."""
    return left[:, :, None] * right[:, None, :]


@dataclass(frozen=True)
class DerivativeSuprema:
    """Entrywise suprema on a box of |V_ijk| (4, 4, 4) and |V_ijkl| (4, 4, 4, 4)."""

    third: Array
    fourth: Array


def derivative_suprema(game: LQGAN, center: Array, radius: Array) -> DerivativeSuprema:
    """Bound the third and fourth derivatives of V on {|theta - center| <= radius}, entry by entry.

    The chain rule for g(a(theta)), with every factor replaced by its supremum on the box (a has degree 3):

        V_ijk  = g''' a_i a_j a_k + g'' (a_ij a_k + 2 more) + g' a_ijk
        V_ijkl = g'''' a_i a_j a_k a_l + g''' (a_ij a_k a_l + 5 more) + g'' (a_ij a_kl + 2 more + a_ijk a_l + 3 more).
    """
    fake = fake_logits(center, game.latents)
    gradient, hessian, third = (np.abs(d) for d in (fake.gradient, fake.hessian, fake.third))
    halfwidth = gradient @ radius + 0.5 * hessian @ radius @ radius + third @ radius @ radius @ radius / 6.0
    gradient = gradient + hessian @ radius + 0.5 * third @ radius @ radius
    hessian = hessian + third @ radius
    g = sigmoid_suprema(fake.value, halfwidth)
    slope = expit(fake.value + halfwidth)

    pairs = _outer(gradient, gradient)
    order3 = _moment(g.third, pairs, gradient) + _over_splits(_moment(g.second, hessian, gradient), 2)
    order3 += _moment(slope, third, np.ones(len(slope)))
    order4 = _moment(g.fourth, pairs, pairs) + _over_splits(_moment(g.third, hessian, pairs), 2)
    order4 += 0.5 * _over_splits(_moment(g.second, hessian, hessian), 2)
    order4 += _over_splits(_moment(g.second, third, gradient), 3)

    k = np.abs(game.features)
    f = sigmoid_suprema(game.features @ center[2:], k @ radius[2:])
    order3[2:, 2:, 2:] += _moment(f.third, _outer(k, k), k)
    order4[2:, 2:, 2:, 2:] += _moment(f.fourth, _outer(k, k), _outer(k, k))
    return DerivativeSuprema(order3 * (1.0 + MARGIN), order4 * (1.0 + MARGIN))
