"""The error bounds of TNNLS Section III-D and Appendix A, as printed."""

from __future__ import annotations

from decimal import Decimal, localcontext

import numpy as np

from verification.bounds.constants import Constants
from verification.dense_lqgan import Array

__all__ = [
    "corollary_1",
    "corollary_2",
    "estimator_slope",
    "lemma_1",
    "lemma_3",
    "lemma_4",
    "lemma_5",
    "lemma_6",
    "nonlinearity",
    "tail",
    "theorem_1",
    "theorem_2",
]


def lemma_1(monotonicity: float, jacobian_norm: float, eta: float) -> float:
    """sigma_B <= sqrt(1 - 2 eta mu + eta^2 lambda^2), below 1 exactly when eta < 2 mu / lambda^2."""
    return float(np.sqrt(max(1.0 - 2.0 * eta * monotonicity + eta**2 * jacobian_norm**2, 0.0)))


def lemma_3(c: Constants, steps: int) -> Array:
    """|theta_{-j}^(t) - theta^(t)| <= eta L_f (1 - sigma^t) / (1 - sigma), t = 0 ... T: (T + 1, J).

    Summed as sum_{s < t} sigma^s, which is the same and holds at sigma = 1 too.
    """
    with np.errstate(over="ignore"):  # an infinite bound is one
        sums = np.concatenate([[0.0], np.cumsum(float(c.sigma) ** np.arange(steps, dtype=np.float64))])
    return c.eta * sums[:, None] * c.row_gradient


def lemma_4(a: float, terms: int) -> float:
    """sum_{m < M} m a^m = a (1 - a^{M-1}) / (1 - a)^2 - (M - 1) a^M / (1 - a), eq. (24), for a != 1."""
    return a * (1.0 - a ** (terms - 1)) / (1.0 - a) ** 2 - (terms - 1) * a**terms / (1.0 - a)


def lemma_5(sigma: float, radius: float, steps: int) -> Array:
    """|theta^(t) - theta*| <= rho sigma_B^t, t = 0 ... T: (T + 1,).  Needs eta < 2 mu / lambda^2 as well."""
    return radius * sigma ** np.arange(steps + 1)


def lemma_6(c: Constants) -> Array:
    """|theta*_{-j} - theta*| <= eta L_f / (1 - sigma_B): (J,).  Needs theta*_{-j} in the ball as well."""
    return c.eta * c.row_gradient / (1.0 - _contraction(c))


def theorem_1(c: Constants, steps: int) -> Array:
    """Theorem 1 as printed, with constants of a region that holds both runs: (J,).

        eta^2 L_f L_f' / (sigma - 1)^2 (T sigma^{T-1} (sigma - 1) - sigma^T + 1)
        + eta^3 L_f^2 L_J / (sigma - 1)^3 (sigma^{2T-1} - (2T - 1)(sigma - 1) sigma^{T-1} - 1)

    Evaluated with 100 digits: it is 0 / 0 at sigma = 1, where `direct_recursion` goes on.

    Raises:
        ValueError: at sigma = 1, which the theorem excludes.
    """
    if float(c.sigma) == 1.0:
        raise ValueError("sigma is 1, which Theorem 1 excludes; use direct_recursion")
    with localcontext() as context:
        context.prec = 100
        sigma = Decimal(float(c.sigma))
        excess, power = sigma - 1, sigma ** (steps - 1)
        first = (steps * power * excess - power * sigma + 1) / excess**2
        second = (power**2 * sigma - (2 * steps - 1) * excess * power - 1) / excess**3
    return _two_terms(c, float(first), float(second))


def corollary_1(c: Constants, steps: int) -> Array:
    """eta^2 L_f L_f' T s^T / (s - 1)^2 + eta^3 L_f^2 L_J s^{2T-1} / (s - 1)^3, s = sigma > 1: (J,)."""
    s = float(c.sigma)
    if s <= 1.0:
        raise ValueError(f"Corollary 1 needs sigma > 1, got {s}; use corollary_2")
    with np.errstate(over="ignore"):
        power = np.float64(s) ** steps
        return _two_terms(c, steps * power / (s - 1.0) ** 2, power * power / s / (s - 1.0) ** 3)


def corollary_2(c: Constants, steps: int) -> Array:
    """eta^2 L_f L_f' (1 - s^T) / (1 - s)^2 + eta^3 L_f^2 L_J (1 - s^{2T-1}) / (1 - s)^3, s = sigma_B < 1: (J,).

    For T > 0: at T = 0 its second term is negative. In the norm of `lyapunov_norm` it needs no Assumption 1. The
    ball must hold the counterfactual run too, which the printed assumptions do not ask.
    """
    s = _contraction(c)
    return _two_terms(c, (1.0 - s**steps) / (1.0 - s) ** 2, (1.0 - s ** (2 * steps - 1)) / (1.0 - s) ** 3)


def theorem_2(c: Constants, radius: float | Array, steps: int, terms: int) -> Array:
    """Theorem 2 as printed: (J,).  With s = sigma_B, rho = `radius`, M = `terms`:

    (eta L_f' / (1 - s) + eta^2 L_f L_J / (1 - s)^2) rho s^T (1 - s^{M-1}) + eta L_f s^M / (1 - s)
    + 2 rho s^T + eta^3 L_f^2 L_J / (1 - s)^3 + eta^2 L_f L_f' / (1 - s)^2

    True where s bounds |Z| and |Z_{-j}| on the balls of radius rho around theta* and theta*_{-j}, and both hold
    theta^(0): proved in ``docs/theorem-2.md``, the paper's own proof being one (33) short of it.
    """
    s = _contraction(c)
    drift = estimator_slope(c) * radius * s**steps * (1.0 - s ** (terms - 1))
    return drift + tail(c, terms) + 2.0 * radius * s**steps + nonlinearity(c)


def estimator_slope(c: Constants) -> Array:
    """eta L_f' / (1 - s) + eta^2 L_f L_J / (1 - s)^2: how fast AID's limit moves with theta, (30) and (32)."""
    gap = 1.0 - float(c.sigma)
    return c.eta * c.row_curvature / gap + c.eta**2 * c.row_gradient * c.lipschitz / gap**2


def tail(c: Constants, terms: int) -> Array:
    """eta L_f s^M / (1 - s): the Neumann series' tail (34)."""
    return c.eta * c.row_gradient * float(c.sigma) ** terms / (1.0 - float(c.sigma))


def nonlinearity(c: Constants) -> Array:
    """eta^2 L_f L_f' / (1 - s)^2 + eta^3 L_f^2 L_J / (1 - s)^3, AID's limit against theta*_{-j} - theta* (38)."""
    gap = 1.0 - float(c.sigma)
    return _two_terms(c, gap**-2, gap**-3)


def _two_terms(c: Constants, first: float, second: float) -> Array:
    """eta^2 L_f L_f' first + eta^3 L_f^2 L_J second: (J,)."""
    curvature = c.eta**2 * c.row_gradient * c.row_curvature
    with np.errstate(over="ignore"):  # an infinite bound is one
        return curvature * first + c.eta**3 * c.row_gradient**2 * c.lipschitz * second


def _contraction(c: Constants) -> float:
    """sigma_B, or an error where Z is no contraction."""
    sigma = float(c.sigma)
    if not sigma < 1.0:
        raise ValueError(f"sigma_B = {sigma} is not below 1 on this region; shrink it or change the norm")
    return sigma
