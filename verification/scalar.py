"""One- to three-dimensional games whose constants are exact, in rational numbers or in floats: where bounds are tight.

No generator, or one with a bilinear coupling: v is affine but for one coordinate k of the discriminator's parameters,
in which V has a cubic term and row j a quadratic one, and theta* = 0:

    U(theta) = theta - eta v(theta) = A theta + (kappa / 2) theta_k^2 e_k,    Delta v_-j(theta) = a + q theta_k e_k,

so that Z = A + kappa theta_k e_k e_k^T, Z_-j = Z + q e_k e_k^T. Their norms, and |Delta v_-j|, are convex functions of
theta_k alone: over a box they are attained at its ends. eta L_f' = |q| and eta L_J = |kappa| are exact, too.
"""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction

import numpy as np
from hypothesis import strategies as st
from scipy.optimize import differential_evolution

from verification.lqgan import Array

__all__ = ["Exact", "exact_games", "ratio", "search"]


@dataclass(frozen=True)
class Exact:
    """A game of one parameter in rational numbers: A = z, and row j such that its removal moves theta* = 0 to `moved`.

    The smallest rho of the uniform reading of Assumptions 1 and 4: theta^(0) within rho of theta* and of theta*_-j.
    """

    z: Fraction
    q: Fraction
    kappa: Fraction
    moved: Fraction
    start: Fraction

    @property
    def a(self) -> Fraction:
        return self.moved - self.after(self.moved) - self.q * self.moved

    @property
    def rho(self) -> Fraction:
        return max(abs(self.start), abs(self.start - self.moved))

    @property
    def _ends(self) -> tuple[Fraction, Fraction]:
        """Of both balls, which overlap: an interval."""
        return min(Fraction(0), self.moved) - self.rho, max(Fraction(0), self.moved) + self.rho

    @property
    def sigma(self) -> Fraction:
        """sup |Z| and |Z_-j| on both balls."""
        return max(abs(self.z + self.kappa * end + q) for end in self._ends for q in (0, self.q))

    @property
    def gradient(self) -> Fraction:
        """eta L_f = sup |Delta v_-j| on both balls."""
        return max(abs(self.jump(end)) for end in self._ends)

    def after(self, theta: Fraction) -> Fraction:
        """U(theta)."""
        return self.z * theta + self.kappa * theta**2 / 2

    def jump(self, theta: Fraction) -> Fraction:
        """Delta v_-j(theta)."""
        return self.a + self.q * theta

    def runs(self, steps: int) -> tuple[Fraction, Fraction, Fraction]:
        """theta^(T), theta_-j^(T), and the ITD influence."""
        theta = removed = self.start
        influence = Fraction(0)
        for _ in range(steps):
            influence = (self.z + self.kappa * theta) * influence + self.jump(theta)
            theta, removed = self.after(theta), self.after(removed) + self.jump(removed)
        return theta, removed, influence

    def aid(self, theta: Fraction, terms: int) -> Fraction:
        """sum_{m < M} Z(theta)^m Delta v_-j(theta)."""
        z = self.z + self.kappa * theta
        return self.jump(theta) * sum((z**m for m in range(terms)), Fraction(0))


def exact_games() -> st.SearchStrategy[Exact]:
    """Rational games with sigma_B < 1, curved or not; removals that move theta* little, a lot or not at all."""

    def parts(most: int) -> st.SearchStrategy[Fraction]:
        return st.fractions(-most, most, max_denominator=60)

    tiny = st.sampled_from([Fraction(0), Fraction(1, 10**6), Fraction(-1, 1000), Fraction(1, 50)])
    drawn = st.builds(
        Exact,
        z=st.one_of(parts(1), tiny),
        q=st.one_of(parts(1), tiny),
        kappa=st.one_of(st.just(Fraction(0)), parts(1)),
        moved=st.one_of(parts(1), tiny),
        start=st.one_of(parts(1), tiny),
    )
    return drawn.filter(lambda game: game.rho > 0 and game.sigma < 1)


# The same in floats, in one to three dimensions, for an optimiser ------------------------------------

Shape = tuple[int, int]
"""Parameters, and how many of them are the generator's."""


def search(shape: Shape, steps: int, terms: int, curved: bool, iterations: int, seed: int = 0) -> float:
    """The largest AID error / Theorem 2's bound, on the uniform reading, that differential evolution finds."""
    count = shape[0]
    size = count * (count + 1) // 2 + 2 + (count - shape[1]) + count
    found = differential_evolution(
        lambda x: -ratio(x, shape, steps, terms, curved),
        [(-1.0, 1.0)] * size,
        maxiter=iterations,
        popsize=12,
        seed=seed,
        tol=0.0,
        polish=False,
    )
    return -float(found.fun)


def ratio(x: Array, shape: Shape, steps: int, terms: int, curved: bool) -> float:
    """AID error / Theorem 2's bound of the zero-sum game that ``x`` describes; 0 where sigma_B is not below 1.

    ``x`` holds A's upper triangle (off-diagonal entries between the players change their sign below the diagonal), q,
    kappa, theta*_-j's discriminator part, and theta^(0).
    """
    count, own = shape
    k = count - 1
    upper = np.triu_indices(count)
    a = np.zeros((count, count))
    a[upper] = x[: len(upper[0])]
    a = a + np.triu(a, 1).T
    a[own:, :own] *= -1.0
    q, kappa = x[len(upper[0])], x[len(upper[0]) + 1] * curved
    rest = x[len(upper[0]) + 2 :]
    unit = np.eye(count)[k]
    moved = np.zeros(count)
    moved[own:] = rest[: count - own]
    if own:
        moved[:own] = np.linalg.solve(np.eye(own) - a[:own, :own], a[:own, own:] @ moved[own:])

    def after(theta: Array) -> Array:
        return np.asarray(a @ theta + 0.5 * kappa * theta[k] ** 2 * unit)

    constant = moved - after(moved) - q * moved[k] * unit
    start = rest[count - own :]
    rho = max(float(np.linalg.norm(start)), float(np.linalg.norm(start - moved)))
    if rho == 0.0:
        return 0.0
    ends = [center[k] + sign * rho for center in (np.zeros(count), moved) for sign in (-1.0, 1.0)]
    bent = np.outer(unit, unit)
    s = max(float(np.linalg.norm(a + (kappa * end + own_q) * bent, 2)) for end in ends for own_q in (0.0, q))
    if not s < 1.0:
        return 0.0
    gradient = max(float(np.linalg.norm(constant + q * end * unit)) for end in ends)

    theta = removed = start
    for _ in range(steps):
        theta, removed = after(theta), after(removed) + constant + q * removed[k] * unit
    z, term = a + kappa * theta[k] * bent, constant + q * theta[k] * unit
    estimate = term.copy()
    for _ in range(terms - 1):
        term = z @ term
        estimate = estimate + term
    gap = 1.0 - s
    bound = (abs(q) / gap + gradient * abs(kappa) / gap**2) * rho * s**steps * (1.0 - s ** (terms - 1))
    bound += gradient / gap * s**terms + 2.0 * rho * s**steps
    bound += gradient**2 * abs(kappa) / gap**3 + gradient * abs(q) / gap**2
    return float(np.linalg.norm(estimate - (removed - theta)) / bound)
