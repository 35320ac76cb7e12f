"""Hara, Nitanda and Maehara (NeurIPS 2019), supplement A.2 and B: how far SGD-influence is off, and K&L's solver."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from hypothesis import strategies as st
from scipy.optimize import brentq
from scipy.special import expit

from verification.drawn_games import THIRD, examples, for_all
from verification.judge import relative, slope
from verification.ledger import Curve, Outcome, Plot, claim
from verification.tally import ALLOWANCE, Tally, mended, never_violated

Array = np.ndarray

ROUNDING = 1e-13
"""Of a norm, per step and unit of the parameters' size."""


# Games with constants that hold everywhere ----------------------------------------------------------


@dataclass(frozen=True)
class OneEpoch:
    """An epoch of SGD on ``l(z; theta) = log(1 + exp(-<x, theta>)) + l2 |theta|^2 / 2``, of which row 0 is removed.

    Hessians have their eigenvalues in [l2, l2 + max|x|^2 / 4], and a Lipschitz constant max|x|^3 / (6 sqrt 3). Rows
    are used in their order, so that row 0 is in the first batch, which is the one of step pi(0).

    Attributes:
        rows: ``(batches, batch, d)``, labels folded in.
        start: theta at step pi(0).
        rates: of the steps.
        l2: of every row, which takes it along when it is removed.
    """

    rows: Array
    start: Array
    rates: Array
    l2: float

    @property
    def reach(self) -> float:
        return float(np.linalg.norm(self.rows, axis=-1).max())

    @property
    def largest(self) -> float:
        """Lambda."""
        return self.l2 + self.reach**2 / 4

    @property
    def lipschitz(self) -> float:
        """L."""
        return self.reach**3 * THIRD

    def gradient(self, theta: Array, row: Array) -> Array:
        return self.l2 * theta - expit(-row @ theta) * row

    def hessian(self, theta: Array, batch: Array) -> Array:
        margins = batch @ theta
        curved = (batch.T * (expit(margins) * expit(-margins))) @ batch / len(batch)
        return np.asarray(curved + self.l2 * np.eye(len(theta)))

    def run(self, without: bool) -> list[Array]:
        states = [self.start]
        for t, (rate, batch) in enumerate(zip(self.rates, self.rows, strict=True)):
            kept = batch[1:] if without and t == 0 else batch
            terms = [self.gradient(states[-1], row) for row in kept]
            states.append(states[-1] - rate / len(batch) * np.sum(terms, axis=0))
        return states

    @property
    def first(self) -> Array:
        """``eta_pi(j) g(z_j; theta^[pi(j)]) / |S_pi(j)|``, where the difference of the runs and its estimate begin."""
        return np.asarray(self.rates[0] / self.rows.shape[1] * self.gradient(self.start, self.rows[0, 0]))

    def estimate(self, states: Sequence[Array]) -> Array:
        """``Delta theta_-j = Z_{T-1} ... Z_{pi(j)+1}`` times the first difference (eq. 2)."""
        delta = self.first
        for theta, rate, batch in zip(states[1:-1], self.rates[1:], self.rows[1:], strict=True):
            delta = delta - rate * self.hessian(theta, batch) @ delta
        return np.asarray(delta)

    def h(self, a: float) -> float:
        """h_j(a) of Lemma 7."""
        return float(np.prod(1 - self.rates[1:] * a) * np.linalg.norm(self.first))

    def allowance(self, states: Sequence[Array]) -> float:
        return ROUNDING * len(states) * (1 + float(np.abs(states).max()))


def drawn(contracting: bool) -> st.SearchStrategy[OneEpoch]:
    """Games of 1 to 4 parameters, batches of 1 to 4 and 2 to 8 steps.

    Args:
        contracting: with L2, and rates of at most 1 / Lambda (Lemma 7); or without L2, so that gradients are at most
            max|x|, and one rate of any size for all steps (Theorem 6).
    """

    def game(case: tuple[int, int, int, int, float]) -> OneEpoch:
        seed, size, batch, steps, share = case
        rng = np.random.default_rng(seed)
        rows = rng.normal(size=(steps, batch, size)) * rng.uniform(0.5, 2.0)
        start = rng.normal(size=size) * rng.uniform(0.0, 2.0)
        one = OneEpoch(rows, start, np.ones(steps), float(rng.uniform(0.01, 1.0)) if contracting else 0.0)
        rates = rng.uniform(share, 1.0, size=steps) if contracting else np.full(steps, 2.0 * share)
        return OneEpoch(rows, start, rates / one.largest, one.l2)

    seeds, sizes = st.integers(0, 2**32 - 1), st.integers(1, 4)
    return st.tuples(seeds, sizes, sizes, st.integers(2, 8), st.floats(0.01, 1.0)).map(game)


# Lemma 7 ---------------------------------------------------------------------------------------------


@claim(
    "sgd-lemma-7",
    "NeurIPS Lemma 7, eq. 7 and 8",
    "With Hessians between lambda and Lambda and rates of at most 1 / Lambda, the influence of a row in an epoch, and "
    "its estimate, have norms between h_j(Lambda) and h_j(lambda).",
    "bound",
    r"h_j(\Lambda) \leq \|\Delta\theta_{-j}\|,\; \|\theta_{-j}^{[T]}-\theta^{[T]}\| \leq h_j(\lambda)",
    reading="The row is in one step, pi(j), as it is in one epoch; h_j's products begin after that step.",
    idea="Each Z, and each Z with the mean Hessian between the runs, shrinks a vector by 1 - eta lambda at least and "
    "by 1 - eta Lambda at most.",
)
def lemma_7(preset: str) -> Outcome:
    """Drawn logistic regressions with lambda and Lambda that hold everywhere: each of the four inequalities in every
    game. The lower bounds are tallied as h_j(Lambda) against the norm."""
    tallies = {name: Tally() for name in ("(7) above", "(8) above", "(7) below", "(8) below")}

    def check(game: OneEpoch) -> None:
        full = game.run(without=False)
        influence, allowance = game.run(without=True)[-1] - full[-1], game.allowance(full)
        for number, one in (("(7)", game.estimate(full)), ("(8)", influence)):
            norm = float(np.linalg.norm(one))
            tallies[f"{number} above"].add(norm, game.h(game.l2), allowance)
            tallies[f"{number} below"].add(game.h(game.largest), norm, allowance)

    for_all(drawn(contracting=True), examples(preset, 200, 2000), check)
    return never_violated(tallies, 0.9, each=True)


@claim(
    "sgd-lemma-7-mean-value",
    "NeurIPS Supplement B, proof of Lemma 7",
    "Between the two runs there is one point at which the batch's Hessian takes their difference to that of the "
    "gradients.",
    "identity",
    r"\exists r\in[0,1]:\; \nabla\ell(\theta_{-j})-\nabla\ell(\theta) = "
    r"\nabla^2\ell(r\theta_{-j}+(1-r)\theta)\,(\theta_{-j}-\theta)",
    reading="As displayed: one r for all coordinates. The loss is that of logistic regression on a batch of two rows.",
    idea="The mean value theorem is one of numbers; of vectors the mean of the Hessians over the segment does it, "
    "which has the same bounds, so that Lemma 7 stands.",
    smallest="One point becomes the mean over the segment; nothing else of the proof changes.",
)
def lemma_7_mean_value(preset: str) -> Outcome:
    """Two rows (1, 0) and (0, 1) of logistic regression, from (0, 0) to (1, 4): each coordinate has its own r, unique
    as the sigmoid's slope falls from 0 on. The mean Hessian by Gauss-Legendre quadrature."""
    batch, end = np.eye(2), np.array([1.0, 4.0])
    game = OneEpoch(batch[None], np.zeros(2), np.ones(1), 0.0)

    def difference(to: Array) -> Array:
        return np.asarray(np.mean([game.gradient(to, row) - game.gradient(0 * to, row) for row in batch], axis=0))

    def place(k: int) -> float:
        sought = difference(end)[k]
        return float(brentq(lambda r: (game.hessian(r * end, batch) @ end)[k] - sought, 0.0, 1.0))

    places = place(0), place(1)
    apart = abs(places[0] - places[1])
    nodes, weights = np.polynomial.legendre.leggauss(40)
    mean = sum(w / 2 * game.hessian((1 + x) / 2 * end, batch) for x, w in zip(nodes, weights, strict=True))
    error = relative(mean @ end, difference(end))
    along = np.array([1.0, 0.0])
    single = brentq(lambda r: (game.hessian(r * along, batch) @ along - difference(along))[0], 0.0, 1.0)
    at_it = game.hessian(single * along, batch) @ along
    return Outcome(
        "corrected" if apart > 0.05 and error <= 1e-12 else "refuted",
        apart,
        0,
        1e-12,
        printed=f"the first coordinate needs r = {places[0]:.3f}, the second r = {places[1]:.3f}",
        amended=f"with the mean of the Hessians over the segment the two sides agree to {max(error, 1e-16):.0e}",
        control=f"along (1, 0), where one coordinate moves, r = {single:.3f} does it for both, to "
        f"{max(relative(at_it, difference(along)), 1e-16):.0e}",
    )


# Theorem 5 -------------------------------------------------------------------------------------------


def turned(turns: int, angle: float, shrink: float) -> tuple[Array, Array]:
    """A run of projections, which are SGD, whose influence turns one way and its estimate the other.

    A row's loss is ``(Lambda - lambda) dist(theta, K)^2 / 2 + lambda |theta - o|^2 / 2`` of a convex set K: its Hessian
    is between lambda and Lambda, and a step with rate ``1 / Lambda`` is ``(1 - rho) P_K(theta) + rho o``, rho =
    lambda / Lambda, P_K the projection. K is a thin triangle. The factual run meets its short side, whose direction is
    turned by one share of the angle against the last; the run without row j its far corner, turned the other way.

    Args:
        turns: steps after pi(j).
        angle: by which the influence has turned in the end.
        shrink: 1 - rho.

    Returns:
        The influence and its estimate, of a first difference of (1, 0).
    """
    influence, estimate = np.array([1.0, 0.0]), np.array([1.0, 0.0])
    for turn in range(1, turns + 1):
        ahead, back = _direction(turn * angle / turns), _direction(-turn * angle / turns)
        corner = (influence @ ahead) * ahead
        outward = np.array([back[1], -back[0]])  # the side of the short edge that the corner is not on
        factual = 1e-9 * outward  # just outside, theta^[s] with P_K = 0
        triangle = [-1e-6 * back, 1e-6 * back, corner]
        influence = shrink * (_projected(factual + influence, triangle) - _projected(factual, triangle))
        estimate = shrink * (estimate @ back) * back  # the derivative of P_K at theta^[s]
    return influence, estimate


def _direction(angle: float) -> Array:
    return np.array([np.cos(angle), np.sin(angle)])


def _projected(point: Array, triangle: Sequence[Array]) -> Array:
    """Of a point outside of it, onto the nearest point of the triangle's sides."""
    found = []
    for a, b in zip(triangle, [*triangle[1:], triangle[0]], strict=True):
        share = np.clip((point - a) @ (b - a) / ((b - a) @ (b - a)), 0.0, 1.0)
        found.append(a + share * (b - a))
    return min(found, key=lambda one: float(np.linalg.norm(point - one)))


@claim(
    "sgd-theorem-5",
    "NeurIPS Theorem 5, Supplement B.1",
    "With Hessians between lambda and Lambda and rates of at most 1 / Lambda, the squared error of the estimate is at "
    "most 2 (h_j(lambda)^2 + h_j(Lambda)^2).",
    "bound",
    r"\|(\theta_{-j}^{[T]}-\theta^{[T]})-\Delta\theta_{-j}\|^2 \leq 2(h_j(\lambda)^2+h_j(\Lambda)^2)",
    reading="As the display of the proof has it; h_j as in Lemma 7. The witness's losses have a Hessian but on the "
    "lines where the nearest point of the triangle changes sides; smoothed over a small disc they have one everywhere, "
    "between the same bounds, and runs change as little as the disc is small.",
    idea="-2 <a, b> is at most 2 |a| |b|, thus 2 h_j(lambda)^2; that it is at most 2 h_j(Lambda)^2 is where the proof "
    "fails: products of contractions that do not commute can turn vectors against each other.",
    smallest="One Lambda of the display becomes lambda. In one parameter, where factors are positive and commute, the "
    "error is even at most h_j(lambda) - h_j(Lambda).",
)
def theorem_5(preset: str) -> Outcome:
    """A run whose influence and estimate turn by 80 degrees in opposite directions in 8 steps, with rate 1 / Lambda and
    lambda / Lambda = 1 %: h_j(Lambda) = 0. The amended bound, the smaller of 2 h_j(lambda) and ``h_j(lambda) sum_s
    eta_s (Lambda - lambda) / (1 - eta_s lambda)`` (one factor of the two products exchanged at a time), meets drawn
    logistic regressions and such runs of up to 60 steps, which come near 2 h_j(lambda)."""
    shrink = 0.99
    influence, estimate = turned(8, np.radians(80.0), shrink)
    ratio = float(np.sum((influence - estimate) ** 2) / (2 * shrink ** (2 * 8)))
    printed, one_parameter, amended, turning = Tally(), Tally(), Tally(), Tally()

    def check(game: OneEpoch) -> None:
        full = game.run(without=False)
        error = float(np.linalg.norm(game.run(without=True)[-1] - full[-1] - game.estimate(full)))
        least, most, rates = game.h(game.largest), game.h(game.l2), game.rates[1:]
        exchanged = float(np.sum(rates * (game.largest - game.l2) / (1 - rates * game.l2)))
        amended.add(error, most * min(2.0, exchanged), game.allowance(full))
        if game.start.size == 1:
            printed.add(error, float(np.sqrt(2 * (least**2 + most**2))), game.allowance(full))
            one_parameter.add(error, most - least, game.allowance(full))

    for_all(drawn(contracting=True), examples(preset, 200, 2000), check)
    for turns in range(2, 61, 2):
        a, b = turned(turns, np.radians(88.0), shrink)
        turning.add(float(np.linalg.norm(a - b)), 2 * shrink**turns, 1e-12)
    tallies = {"drawn": amended, "turning": turning, "one parameter": one_parameter}
    outcome = never_violated(tallies, 0.9)
    control = (
        f"in {len(printed.measured)} drawn games of one parameter the printed bound has {printed.violations} "
        f"violations, and h_j(lambda) - h_j(Lambda) {one_parameter.violations}, with errors up to "
        f"{one_parameter.largest:.2g} of it"
    )
    return Outcome(
        mended(ratio > 1.01, tallies, 0.9) if not printed.violations else "refuted",
        ratio,
        "at most 1",
        ALLOWANCE,
        printed=f"squared error / printed bound = {ratio:.3f} in the turning run",
        amended=f"the smaller of 2 h_j(lambda) and the sum over exchanged factors: error / bound at most "
        f"{outcome.largest:.3f} in {sum(len(one.measured) for one in tallies.values())} cases",
        control=control,
        numbers=outcome.numbers,
        largest=outcome.largest,
        floor=outcome.floor,
    )


# Theorem 6 -------------------------------------------------------------------------------------------


@claim(
    "sgd-theorem-6",
    "NeurIPS Theorem 6, Supplement B.2",
    "Without convexity, with Hessians of norm at most Lambda and Lipschitz with L, gradients of norm at most G and one "
    "rate eta, the estimate is off by at most 4 ((1 + eta Lambda)^(T-1) - 1) / (eta Lambda) eta^3 T^2 G^2 L.",
    "bound",
    r"\|(\theta_{-j}^{[T]}-\theta^{[T]})-\Delta\theta_{-j}\| \leq "
    r"4\frac{(1+\eta\Lambda)^{T-1}-1}{\eta\Lambda}\eta^3T^2G^2L",
    reading="The proof's last display but for its O(): with eta = gamma / sqrt(T) it is the theorem's. T counts "
    "states, of which there is one more than steps.",
    idea="Each step adds eta (H - H*) times the runs' distance; with the mean Hessian of the segment half of L does, "
    "and the distance is the first difference, grown by 1 + eta Lambda a step.",
)
def theorem_6(preset: str) -> Outcome:
    """Drawn logistic regressions without L2, rates up to 2 / Lambda: the printed bound, and a sharper one, ``L/2 |first
    difference|^2 sum_s eta (1 + eta Lambda)^(T-1-s + 2(s-pi-1))``, which the error must come near. The proof takes 2
    eta G T for the distance, where this has the first difference, grown: no error reaches 1 % of the printed bound."""
    printed, sharper = Tally(), Tally()

    def check(game: OneEpoch) -> None:
        full = game.run(without=False)
        error = float(np.linalg.norm(game.run(without=True)[-1] - full[-1] - game.estimate(full)))
        eta, steps, growth = float(game.rates[0]), len(game.rates), 1 + float(game.rates[0]) * game.largest
        states = steps + 1
        limit = 4 * (growth**steps - 1) / (growth - 1) * eta**3 * states**2 * game.reach**2 * game.lipschitz
        printed.add(error, limit, game.allowance(full))
        exponents = np.array([steps - 1 - s + 2 * (s - 1) for s in range(1, steps)])
        own = eta * game.lipschitz / 2 * float(game.first @ game.first) * float(np.sum(growth**exponents))
        sharper.add(error, own, game.allowance(full))

    for_all(drawn(contracting=False), examples(preset, 300, 3000), check)
    outcome = never_violated({"sharper": sharper}, 0.5)
    if printed.violations:
        return never_violated({"printed": printed}, 0.0)
    numbers = {**printed.numbers("printed"), **sharper.numbers("sharper")}
    return Outcome(
        outcome.verdict,
        printed.largest,
        "at most 1",
        ALLOWANCE,
        numbers=numbers,
        plot=sharper.plot(),
        largest=outcome.largest,
        floor=outcome.floor,
    )


# A.2 -------------------------------------------------------------------------------------------------


def _solving(hessians: Sequence[Array], b: Array, gamma: float) -> tuple[Array, Array]:
    """SGD on the quadratic (6) from beta = b, and the product of its Z with b."""
    beta, product = b, b
    for hessian in hessians:
        beta = beta - gamma * (hessian @ beta - b)
        product = product - gamma * hessian @ product
    return beta, product


@claim(
    "sgd-a2-remainder",
    "NeurIPS Supplement A.2",
    "K&L's SGD on the quadratic (6) gives the product of its Z times the row's gradient up to O(gamma), so that with a "
    "small gamma it resembles SGD-influence.",
    "order",
    r"\beta^{[T]} = \hat Z_{T-1}\cdots\hat Z_1\nabla\ell(z_j;\hat\theta) + O(\gamma)",
    reading="O(gamma) with a constant that does not grow with T: solving (6) takes gamma T large.",
    idea="The remainder is sum_t gamma_t Z_{T-1} ... Z_{t+1} b, of norm at most sum_t gamma_t |b|; as gamma T grows "
    "the product vanishes and the remainder is the whole solution.",
    smallest="O(gamma) becomes O(sum_t gamma_t), which the remainder attains to first order.",
)
def a2_remainder(preset: str) -> Outcome:
    """A batch of a drawn logistic regression a step, at one theta. The remainder over gamma |b| at gamma = 1e-4 for 10
    to 100 000 steps; its slope in gamma at 10 steps; and its share of beta when gamma T lambda = 20."""
    rng = np.random.default_rng(7)
    game = OneEpoch(rng.normal(size=(50, 4, 3)), rng.normal(size=3), np.ones(50), 0.1)
    own = [game.hessian(game.start, batch) for batch in game.rows]
    b = game.gradient(game.start, game.rows[0, 0])

    def remainder(gamma: float, steps: int) -> tuple[float, float]:
        beta, product = _solving([own[t % len(own)] for t in range(steps)], b, gamma)
        return float(np.linalg.norm(beta - product)), float(np.linalg.norm(beta))

    size, gammas = float(np.linalg.norm(b)), 10.0 ** np.arange(-6, -1)
    order, _ = slope(gammas, np.array([remainder(float(gamma), 10)[0] for gamma in gammas]))
    lengths = [10, 100, 1000, 10_000, 100_000]
    constants = [remainder(1e-4, steps)[0] / (1e-4 * size) for steps in lengths]
    shares = {gamma: np.divide(*remainder(gamma, round(20 / (gamma * 0.1)))) for gamma in (1e-2, 1e-3)}
    within = max(constant / steps for constant, steps in zip(constants, lengths, strict=True))
    holds = within <= 1 + 1e-9 and abs(order - 1) < 0.02
    grows = constants[-1] > 100 * constants[0]
    amends = "corrected" if grows else "holds"
    plot = Plot(
        "steps", "remainder / (gamma |b|)", [Curve("measured", lengths, constants), Curve("T", lengths, lengths)]
    )
    return Outcome(
        amends if holds else "refuted",
        constants[-1] / constants[0],
        1,
        1e-9,
        printed=f"remainder / (gamma |b|) is {constants[0]:.3g} after 10 steps, {constants[-1]:.3g} after 100 000; "
        f"with gamma T lambda = 20 it is {100 * min(shares.values()):.4g} % of beta at gamma = 1e-2 and 1e-3",
        amended=f"the remainder is at most sum_t gamma_t |b|: its share of that is {within:.4f} at most",
        control=f"after 10 steps, whatever gamma, the slope in gamma is {order:.4f}",
        numbers={"order in gamma at 10 steps": order, "largest share of sum gamma |b|": within},
        plot=plot,
    )
