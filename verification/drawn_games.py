"""Games that hypothesis draws, the same ones every time, and two that are written down, on which bounds are tried."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from hypothesis import HealthCheck, Phase, assume, given, reject, settings
from hypothesis import strategies as st
from scipy.optimize import brentq
from scipy.special import expit

from verification import bounds
from verification.bounds import Constants
from verification.dense_lqgan import LQGAN, Array, itd
from verification.tally import Tally

THIRD = 1.0 / (6.0 * np.sqrt(3.0))
"""sup |f'''|."""


@dataclass(frozen=True)
class Removals:
    """A run, its ITD influences and the runs without each row: (T + 1, 4) and, twice, (T + 1, N, 4)."""

    game: LQGAN
    run: Array
    removed: Array
    influence: Array

    @property
    def steps(self) -> int:
        return len(self.run) - 1

    @property
    def truth(self) -> Array:
        """The true influence on theta^(t), (T + 1, N, 4)."""
        return self.removed - self.run[:, None]

    @property
    def errors(self) -> Array:
        """|ITD - true influence|, (T + 1, N)."""
        return np.linalg.norm(self.influence - self.truth, axis=-1)

    @property
    def size(self) -> float:
        """The largest parameter of any run."""
        return float(max(np.abs(self.run).max(), np.abs(self.removed).max()))

    @property
    def allowance(self) -> float:
        """What rounding may contribute to an error."""
        return rounding(self.steps, self.size)

    @cached_property
    def constants(self) -> Constants:
        """Constants over one box around both runs."""
        boxes = bounds.boxes_between(self.run, self.removed)
        return bounds.constants(self.game, boxes, np.arange(self.game.rows.size)).worst()

    def note(self, tally: Tally) -> None:
        """Show a reader the ranges of the constants."""
        c = self.constants
        tally.note(sigma=c.sigma, eta=c.eta, L_f=c.row_gradient, L_fprime=c.row_curvature, L_J=c.lipschitz)


def rounding(steps: int, size: float) -> float:
    """The absolute allowance for an error measured after so many steps on parameters of this size."""
    return 1e-13 * (steps + 1) * (1.0 + size)


def retrained(game: LQGAN, start: Array, steps: int) -> Removals:
    """Train with all rows and without each."""
    run = game.train(start, steps)
    removed = game.train(start, steps, game.without(np.arange(game.rows.size)))
    return Removals(game, run, removed, itd(game, run))


@st.composite
def removals(draw: st.DrawFn, horizons: tuple[int, ...] = (0, 1, 2, 3, 5, 10, 30)) -> Removals:
    """LQGANs of 1 to 12 rows and latents, eta from 0.003 to 1, lambda from 0 to 3, started anywhere."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    rows, latents = draw(st.integers(1, 12)), draw(st.integers(1, 12))
    eta = 10.0 ** draw(st.floats(-2.5, 0.0))
    l2 = draw(st.sampled_from([0.0, 1.0])) * rng.uniform(0.0, 3.0, 2)
    game = LQGAN(rng.normal(1.0, 1.0, rows), rng.normal(size=latents), eta, tuple(l2))
    start = rng.normal(size=4) * draw(st.sampled_from([0.1, 1.0]))
    try:
        with np.errstate(over="ignore", invalid="ignore"):
            case = retrained(game, start, draw(st.sampled_from(horizons)))
    except FloatingPointError:  # a run that diverges
        reject()
    assume(case.size < 20.0)
    return case


@dataclass(frozen=True)
class Contraction:
    """Assumptions 1 to 4 on the uniform reading: they hold of the game with all rows and of each without one.

    Attributes:
        removals: the runs.
        equilibrium: theta*, (4,).
        shifted: theta*_-j of every row, (N, 4).
        radius: of a ball around theta* that holds, for every row j, both balls of radius ``rho[j]``.
        constants: on that ball; `sigma` bounds |Z| and every |Z_-j|.
    """

    removals: Removals
    equilibrium: Array
    shifted: Array
    radius: float
    constants: Constants

    @property
    def rho(self) -> Array:
        """The least rho with theta^(0) in the balls around theta* and theta*_-j, (N,)."""
        start = self.removals.run[0]
        own = np.linalg.norm(start - self.shifted, axis=1)
        return np.maximum(own, np.linalg.norm(start - self.equilibrium))

    @property
    def distance(self) -> Array:
        """|theta*_-j - theta*|, (N,)."""
        return np.asarray(np.linalg.norm(self.shifted - self.equilibrium, axis=1))

    def note(self, tally: Tally) -> None:
        """Show a reader the ranges of the constants."""
        c = self.constants
        tally.note(
            sigma_B=c.sigma,
            eta=c.eta,
            mu=c.monotonicity,
            L_f=c.row_gradient,
            L_fprime=c.row_curvature,
            L_J=c.lipschitz,
            rho=self.rho,
        )


@st.composite
def contractions(draw: st.DrawFn, horizons: tuple[int, ...] = (0, 1, 2, 3, 10, 40)) -> Contraction:
    """LQGANs of 2 to 30 rows so strongly regularised (lambda from 1 to 8) that mu > 0, and eta < 2 mu / lambda^2.

    Runs start at theta* itself, or near; eta is up to .9999 of its limit; in a third of the games one row has half of
    the data's curvature.
    """
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    rows = draw(st.integers(2, 30))
    data = rng.normal(1.0, 1.0, rows)
    if draw(st.integers(0, 2)) == 0:
        data[0] = (np.sum(data[1:] ** 4 + data[1:] ** 2)) ** 0.25  # about: |k|^2 = x^4 + x^2
    l2 = draw(st.floats(1.0, 8.0)), draw(st.floats(1.0, 8.0))
    game = LQGAN(data, rng.normal(size=10), 1.0, l2)
    try:
        star = game.equilibrium(np.array([0.0, 0.05, 0.2, 0.1]))
        shifted = np.stack([game.equilibrium(star, w) for w in game.without(np.arange(rows))])
    except ArithmeticError:  # no equilibrium found from there
        reject()
    start = star + rng.normal(size=4) * draw(st.sampled_from([0.0, 1e-3, 1e-2, 0.1]))
    spread = float(np.linalg.norm(shifted - star, axis=1).max())
    radius = (float(np.linalg.norm(start - star)) + 2.0 * spread) * 1.0001
    ball = bounds.ball_box(star, radius)
    whole = bounds.constants(game, ball, np.arange(rows), reach=radius).worst()
    assume(float(whole.monotonicity) > 0.0)
    limit = 2.0 * float(whole.monotonicity) / float(whole.jacobian_norm) ** 2
    game = LQGAN(data, game.latents, draw(st.one_of(st.floats(0.05, 0.99), st.just(0.9999))) * limit, l2)
    c = bounds.constants(game, ball, np.arange(rows), reach=radius).worst().uniform()
    assume(float(c.sigma) < 1.0)
    case = retrained(game, start, draw(st.sampled_from(horizons)))
    return Contraction(case, star, shifted, radius, c)


def for_all(strategy: st.SearchStrategy[Any], examples: int, check: Callable[[Any], None]) -> None:
    """Give `check` so many cases drawn by hypothesis, the same ones every time."""

    @settings(
        max_examples=examples,
        derandomize=True,
        deadline=None,
        database=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(strategy)
    def run(case: Any) -> None:
        check(case)

    run()


def examples(preset: str, smoke: int, standard: int) -> int:
    """How many games to draw."""
    return standard if preset == "standard" else smoke


# A game without a generator ------------------------------------------------------------------------


@dataclass(frozen=True)
class Logistic:
    """D(psi, x) = psi x without a generator (TNNLS V-A): one parameter, and every constant finite on all of R.

    v(psi) = -(1/N) sum_i w_i x_i s(-psi x_i) + lambda psi,  J(psi) = (1/N) sum_i w_i x_i^2 s (1 - s) + lambda > 0.
    """

    rows: Array
    eta: float
    l2: float

    def velocity(self, psi: float, weights: Array) -> float:
        return float(self.l2 * psi - np.mean(weights * self.rows * expit(-psi * self.rows)))

    def jacobian(self, psi: float) -> float:
        return float(self.l2 + np.mean(self.rows**2 * expit(psi * self.rows) * expit(-psi * self.rows)))

    def jump(self, psi: float, j: int) -> float:
        return float(-self.eta / len(self.rows) * self.rows[j] * expit(-psi * self.rows[j]))

    def weights(self, removed: int | None = None) -> Array:
        return np.array([float(i != removed) for i in range(len(self.rows))])

    def equilibrium(self, removed: int | None = None) -> float:
        reach = np.abs(self.rows).max() / self.l2 + 1.0
        return float(brentq(self.velocity, -reach, reach, args=(self.weights(removed),), xtol=1e-15))

    def train(self, start: float, steps: int, removed: int | None = None) -> list[float]:
        run = [start]
        for _ in range(steps):
            run.append(run[-1] - self.eta * self.velocity(run[-1], self.weights(removed)))
        return run

    def constants(self, star: float, rho: float, j: int) -> Constants:
        """L_f, L_f', L_J over all of R; sigma_B, mu and lambda on [star - rho, star + rho] by L_J."""
        size, x = len(self.rows), abs(float(self.rows[j]))
        lipschitz = float(np.mean(np.abs(self.rows) ** 3)) * THIRD
        jacobian, wander = self.jacobian(star), lipschitz * rho
        sigma = abs(1.0 - self.eta * jacobian) + self.eta * wander
        values = (sigma, [sigma], [x / size], [x**2 / 4 / size], lipschitz, jacobian + wander, jacobian - wander)
        return Constants(self.eta, *(np.asarray(value) for value in values))


PAIR = Logistic(np.array([1.0, -1.0]), eta=1.0, l2=1e-3)
"""Two opposite rows: theta* = 0, mu = 0.251, and without one of them the equilibrium moves far away."""
