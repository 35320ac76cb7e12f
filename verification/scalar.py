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
from hypothesis import assume
from hypothesis import strategies as st
from scipy.optimize import differential_evolution

from verification.bounds import Constants
from verification.dense_lqgan import Array

__all__ = ["TERMS", "Exact", "Known", "exact_games", "exact_runs", "ratio", "search"]


@dataclass(frozen=True)
class Known:
    """The constants of a bound in rational numbers, and the papers' bounds, typed from the page once more.

    Attributes:
        s: sigma, or sigma_B.
        f, df, dj: eta L_f, eta L_f', eta L_J.
    """

    s: Fraction
    f: Fraction
    df: Fraction
    dj: Fraction

    def lemma_3(self, t: int) -> Fraction:
        return self.f * (1 - self.s**t) / (1 - self.s)

    def lemma_6(self) -> Fraction:
        return self.f / (1 - self.s)

    def theorem_1(self, t: int) -> Fraction:
        s, above = self.s, self.s - 1
        first = self.f * self.df / above**2 * (t * s ** (t - 1) * above - s**t + 1)
        second = self.f**2 * self.dj / above**3 * (s ** (2 * t - 1) - (2 * t - 1) * above * s ** (t - 1) - 1)
        return first + second

    def corollary_1(self, t: int) -> Fraction:
        s, above = self.s, self.s - 1
        return self.f * self.df / above**2 * t * s**t + self.f**2 * self.dj / above**3 * s ** (2 * t - 1)

    def corollary_2(self, t: int) -> Fraction:
        s, gap = self.s, 1 - self.s
        return self.f * self.df / gap**2 * (1 - s**t) + self.f**2 * self.dj / gap**3 * (1 - s ** (2 * t - 1))

    def theorem_2(self, rho: Fraction, t: int, m: int) -> Fraction:
        s, gap = self.s, 1 - self.s
        drift = (self.df / gap + self.f * self.dj / gap**2) * rho * s**t * (1 - s ** (m - 1))
        limit = self.f**2 * self.dj / gap**3 + self.f * self.df / gap**2
        return drift + self.f / gap * s**m + 2 * rho * s**t + limit

    def direct_recursion(self, t: int) -> Fraction:
        """e <- s e + eta L_f' d + (eta L_J / 2) d^2,  d <- s d + eta L_f."""
        error = distance = Fraction(0)
        for _ in range(t):
            error = self.s * error + self.df * distance + self.dj / 2 * distance**2
            distance = self.s * distance + self.f
        return error

    @property
    def constants(self) -> Constants:
        """The same for `verification.bounds`, with eta = 1."""
        of_row = [[float(value)] for value in (self.s, self.f, self.df)]
        return Constants(1.0, *map(np.asarray, (float(self.s), *of_row, float(self.dj), 1.0, 1.0)))


@dataclass(frozen=True)
class Exact:
    """A game of one parameter in rational numbers, theta* = 0: A = z, and Delta v_-j(theta) = a + q theta."""

    z: Fraction
    q: Fraction
    kappa: Fraction
    a: Fraction
    start: Fraction

    @classmethod
    def moving(cls, z: Fraction, q: Fraction, kappa: Fraction, moved: Fraction, start: Fraction) -> Exact:
        """The game whose row j is such that theta*_-j = ``moved``."""
        return cls(z, q, kappa, moved - (z * moved + kappa * moved**2 / 2) - q * moved, start)

    def after(self, theta: Fraction) -> Fraction:
        """U(theta)."""
        return self.z * theta + self.kappa * theta**2 / 2

    def jump(self, theta: Fraction) -> Fraction:
        """Delta v_-j(theta)."""
        return self.a + self.q * theta

    def runs(self, steps: int) -> list[tuple[Fraction, Fraction, Fraction]]:
        """theta^(t), theta_-j^(t) and the ITD influence, t = 0 ... T."""
        theta, removed, influence = self.start, self.start, Fraction(0)
        found = [(theta, removed, influence)]
        for _ in range(steps):
            influence = (self.z + self.kappa * theta) * influence + self.jump(theta)
            theta, removed = self.after(theta), self.after(removed) + self.jump(removed)
            found.append((theta, removed, influence))
        return found

    def aid(self, theta: Fraction, terms: int) -> Fraction:
        """sum_{m < M} Z(theta)^m Delta v_-j(theta)."""
        z = self.z + self.kappa * theta
        return self.jump(theta) * sum((z**m for m in range(terms)), Fraction(0))

    def known(self, low: Fraction, high: Fraction, without: bool = True) -> Known:
        """The constants on an interval; `s` bounds |Z|, and |Z_-j| too, unless not ``without``."""
        own = (0, self.q) if without else (0,)
        s = max(abs(self.z + self.kappa * end + q) for end in (low, high) for q in own)
        gradient = max(abs(self.jump(end)) for end in (low, high))
        return Known(s, gradient, abs(self.q), abs(self.kappa))

    def uniform(self, moved: Fraction) -> tuple[Fraction, Known]:
        """The least rho of the uniform reading, theta^(0) in the balls around 0 and theta*_-j = ``moved``; constants on
        both, which overlap."""
        rho = max(abs(self.start), abs(self.start - moved))
        return rho, self.known(min(Fraction(0), moved) - rho, max(Fraction(0), moved) + rho)


def _fractions(most: int) -> st.SearchStrategy[Fraction]:
    tiny = st.sampled_from([Fraction(0), Fraction(1, 10**6), Fraction(-1, 1000), Fraction(1, 50)])
    return st.one_of(st.fractions(-most, most, max_denominator=60), tiny)


@st.composite
def exact_games(draw: st.DrawFn) -> tuple[Exact, Fraction, Fraction, Known]:
    """A game, theta*_-j, rho, its constants with sigma_B < 1; removals that move theta* little, a lot, not at all."""
    part = _fractions(1)
    kappa = draw(st.one_of(st.just(Fraction(0)), part))
    moved = draw(part)
    game = Exact.moving(draw(part), draw(part), kappa, moved, draw(part))
    rho, known = game.uniform(moved)
    assume(rho > 0 and 0 < known.s < 1)
    return game, moved, rho, known


@st.composite
def exact_runs(draw: st.DrawFn, steps: int) -> tuple[list[tuple[Fraction, Fraction, Fraction]], Known]:
    """Two runs of ``steps`` steps and constants on the interval that holds both, sigma on either side of 1."""
    part, wide = _fractions(1), _fractions(3)
    kappa = draw(st.one_of(st.just(Fraction(0)), part))
    game = Exact(draw(wide), draw(part), kappa, draw(part), draw(part))
    runs = game.runs(steps)
    states = [state for theta, removed, _ in runs for state in (theta, removed)]
    known = game.known(min(states), max(states), without=False)
    assume(known.s not in (0, 1))
    return runs, known


# The same in floats, in one to three dimensions, for an optimiser ------------------------------------

Shape = tuple[int, int]
"""Parameters, and how many of them are the generator's."""


def search(shape: Shape, steps: int, terms: int, curved: bool, iterations: int, without: str = "") -> float:
    """The largest AID error / Theorem 2's bound, on the uniform reading, that differential evolution finds.

    ``without``: one of :data:`TERMS`, which is left out of the bound.
    """
    count = shape[0]
    size = count * (count + 1) // 2 + 2 + (count - shape[1]) + count
    found = differential_evolution(
        lambda x: -ratio(x, shape, steps, terms, curved, without),
        [(-1.0, 1.0)] * size,
        maxiter=iterations,
        popsize=12,
        seed=0,
        tol=0.0,
        polish=False,
    )
    return -float(found.fun)


TERMS = ("first", "tail", "2 rho s^T", "L_f^2 L_J", "L_f L_f'")
"""Of Theorem 2's bound, in its order."""


def ratio(x: Array, shape: Shape, steps: int, terms: int, curved: bool, without: str = "") -> float:
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
    parts = (
        (abs(q) / gap + gradient * abs(kappa) / gap**2) * rho * s**steps * (1.0 - s ** (terms - 1)),
        gradient / gap * s**terms,
        2.0 * rho * s**steps,
        gradient**2 * abs(kappa) / gap**3,
        gradient * abs(q) / gap**2,
    )
    bound = sum(part for name, part in zip(TERMS, parts, strict=True) if name != without)
    if not bound > 0.0:
        return 0.0
    rounding = 1e-15 * (steps + terms) * float(np.abs(x).max())  # small games are no counterexamples
    return max(float(np.linalg.norm(estimate - (removed - theta))) - rounding, 0.0) / float(bound)
