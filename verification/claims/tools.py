"""The ledger's own tools, judged as it judges others: each is given what it must reject."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from fractions import Fraction

import numpy as np
from hypothesis import strategies as st

from verification import bounds, judge
from verification.bounds import Boxes, Constants
from verification.bounds.certificate import Frame, next_radius
from verification.dense_lqgan import LQGAN, SIGNS, Array, derivatives_of_f
from verification.drawn_games import examples, for_all
from verification.judge import at_most
from verification.ledger import Number, Outcome, claim
from verification.scalar import Known
from verification.tally import CLEAR, ENOUGH, Tally, mended, never_violated


@claim(
    "the-judge",
    "the ledger itself",
    "What turns numbers into verdicts rejects what it must: values off by a little more than the tolerance, violated "
    "bounds, bounds that no case came near, witnesses without an amendment.",
    "algorithm",
)
def the_judge(preset: str) -> Outcome:
    """Every function of the judge and the tally on inputs whose verdict is known, one on either side of each edge."""
    verdicts = _verdicts()
    wrong = [name for name, right in verdicts.items() if not right]
    numbers: dict[str, Number] = {"verdicts asked for": len(verdicts), "wrong": ", ".join(wrong) or "none"}
    return Outcome("refuted" if wrong else "holds", len(wrong), 0, 0, numbers=numbers)  # by nothing that is on trial


def _verdicts() -> dict[str, bool]:
    """Whether each verdict is the right one."""
    x = np.array([1.0, 2.0, 4.0, 8.0, 16.0])
    tallies = {name: _tally(*case) for name, case in _CASES.items()}
    halves = np.array([1.0, 0.5, 0.25])
    steps = np.array([0.4, 0.2, 0.1])
    return {
        "at_most, within": judge.at_most(1.0, 1.0).verdict == "holds",
        "at_most, a count": judge.at_most(0, 0).verdict == "holds",
        "at_most, above": judge.at_most(1.001, 1.0).verdict == "refuted",
        "at_most, not a number": judge.at_most(float("nan"), 1.0).verdict == "refuted",
        "close, within": judge.close(2.1, 2.0, 0.11).verdict == "holds",
        "close, above": judge.close(2.12, 2.0, 0.11).verdict == "refuted",
        "close, below": judge.close(1.88, 2.0, 0.11).verdict == "refuted",
        "close, not a number": judge.close(float("nan"), 2.0, 0.11).verdict == "refuted",
        "correction, holds": judge.correction(0.9, 0.5, 1.0, "p", "a").verdict == "holds",
        "correction, corrected": judge.correction(1.1, 0.5, 1.0, "p", "a").verdict == "corrected",
        "correction, refuted": judge.correction(1.1, 1.1, 1.0, "p", "a").verdict == "refuted",
        "slope 3": abs(judge.slope(x, 5 * x**3)[0] - 3) < 1e-12,
        "slope -1/2": abs(judge.slope(x, x**-0.5)[0] + 0.5) < 1e-12,
        "slope's half-width": judge.slope(x, x**2 * np.array([1.0, 1.1, 0.9, 1.1, 1.0]))[1] > 0.02,
        "observed order": abs(judge.observed_order(halves, 7 * halves**2) - 2) < 1e-12,
        "richardson": abs(float(judge.richardson(3 + steps**2 - 2 * steps**4)) - 3) < 1e-14,
        "removal's derivative": abs(float(judge.removal_derivative(lambda w: np.asarray(w**3), 0.1)) + 3) < 1e-12,
        "relative, compared with itself": _refuses(lambda: judge.relative(x, x)),
        "relative, compared with a part of itself": _refuses(lambda: judge.relative(x[:2], x[1:3])),
        "relative": judge.relative(np.array([1.0, 1.0]), np.array([1.0, 3.0])) == 2 / np.sqrt(10),
        **{f"tally, {name}": tally.verdict(0.5) == _CASES[name][2] for name, tally in tallies.items()},
        "tally counts": [tallies[name].violations for name in _CASES] == [0, 1, 1, 0, 0, 0],
        "tally's largest": tallies["holds"].largest == 0.75,
        "exact tally": _exact_tally().violations == 1,
        "never violated": never_violated({"a": tallies["holds"], "b": tallies["violated by 1 %"]}, 0.5).verdict
        == "refuted",
        "never violated, all": never_violated({"a": tallies["holds"], "b": tallies["holds"]}, 0.5).verdict == "holds",
        "mended": mended(True, {"": tallies["holds"]}, 0.5) == "corrected",
        "mended, no witness": mended(False, {"": tallies["holds"]}, 0.5) == "holds",
        "mended, amendment violated": mended(True, {"": tallies["violated by 1 %"]}, 0.5) == "refuted",
        "mended, amendment untested": mended(True, {"": tallies["none near"]}, 0.5) == "not tested",
    }


def _refuses(compare: Callable[[], float]) -> bool:
    try:
        compare()
    except ValueError:
        return True
    return False


_CASES: dict[str, tuple[list[float], list[float], str]] = {
    "holds": ([0.75] * ENOUGH, [1.0] * ENOUGH, "holds"),
    "violated by 1 %": ([0.75] * ENOUGH + [1.01], [1.0] * (ENOUGH + 1), "refuted"),
    "not a number": ([0.75] * ENOUGH + [0.1], [1.0] * ENOUGH + [float("nan")], "refuted"),
    "none near": ([0.4] * ENOUGH, [1.0] * ENOUGH, "not tested"),
    "too few": ([0.75] * (ENOUGH - 1), [1.0] * (ENOUGH - 1), "not tested"),
    "all rounding": ([1e-9] * ENOUGH, [1e-9] * ENOUGH, "not tested"),
}
"""Errors, bounds, and the verdict with a floor of one half and an allowance of 1e-10."""


def _tally(errors: list[float], limits: list[float], _: str) -> Tally:
    tally = Tally()
    tally.add(np.array(errors), np.array(limits), 1e-9 * 10 / CLEAR)
    return tally


def _exact_tally() -> Tally:
    tally = Tally()
    for error in (Fraction(1), Fraction(10**30 + 1, 10**30)):
        tally.add_exact(error, Fraction(1))
    return tally


@claim(
    "the-bounds",
    "the ledger itself, TNNLS Section III-D and Appendix A",
    "The bounds in floating point are the papers' formulas, typed from the page once more in rational numbers.",
    "identity",
    idea="Two transcriptions, one for arrays and one for fractions, must agree: dropping or changing a term shows.",
)
def the_bounds(preset: str) -> Outcome:
    """Lemmas 3, 5 and 6, both corollaries and theorems, and the direct recursion, T up to 9, M up to 7, on constants
    drawn from fractions, sigma on both sides of 1. The largest relative difference."""
    errors: dict[str, float] = {}

    def check(case: tuple[Fraction, Fraction, Fraction, Fraction, Fraction, int, int]) -> None:
        s, f, df, dj, rho, t, m = case
        known = Known(s, f, df, dj)
        c = known.constants
        pairs: dict[str, tuple[Array | float, Fraction]] = {
            "Lemma 3": (bounds.lemma_3(c, t)[-1, 0], known.lemma_3(t)),
            "Theorem 1": (bounds.theorem_1(c, t)[0], known.theorem_1(t)),
            "direct recursion": (bounds.direct_recursion(c, t)[-1, 0], known.direct_recursion(t)),
        }
        if s > 1:
            pairs["Corollary 1"] = bounds.corollary_1(c, t)[0], known.corollary_1(t)
        else:
            pairs["Corollary 2"] = bounds.corollary_2(c, t)[0], known.corollary_2(t)
            pairs["Lemma 5"] = bounds.lemma_5(float(s), float(rho), t)[-1], rho * s**t
            pairs["Lemma 6"] = bounds.lemma_6(c)[0], known.lemma_6()
            pairs["Theorem 2"] = bounds.theorem_2(c, float(rho), t, m)[0], known.theorem_2(rho, t, m)
        for name, (value, exact) in pairs.items():
            difference = abs(Fraction(float(value)) - exact)
            scale = max(abs(exact), Fraction(1, 10**12))
            errors[name] = max(errors.get(name, 0.0), float(difference / scale))

    positive = st.fractions(Fraction(1, 20), 3, max_denominator=20)
    sigma = st.one_of(
        st.fractions(Fraction(1, 10), Fraction(9, 10), max_denominator=20),
        st.fractions(Fraction(11, 10), 3, max_denominator=20),
    )
    drawn = st.tuples(sigma, positive, positive, positive, positive, st.integers(0, 9), st.integers(1, 7))
    for_all(drawn, examples(preset, 150, 1500), check)
    return at_most(
        max(errors.values()), 1e-10, {f"{name}: largest difference": value for name, value in errors.items()}
    )


@claim(
    "the-constants",
    "the ledger itself",
    "The constants of a region are never below what the game attains in it, and not far above.",
    "bound",
    idea="Suprema of the derivatives of f over intervals of logits, and Taylor's polynomial of the logits at the "
    "centre, which is exact, since they are polynomials of degree 3.",
)
def the_constants(preset: str) -> Outcome:
    """Drawn LQGANs on boxes from a thousandth to a half in half-width. |Z|, |Z_-j|, |J|, the rows' gradients and
    curvatures, the least eigenvalue of J's symmetric part, and |J(theta) - J(theta')| / |theta - theta'|, each at 400
    points of the box, its corners among them, against the constant; the largest value / constant of each."""
    tallies = {name: Tally() for name in ("sigma", "sigma_-j", "lambda", "L_f", "L_f'", "L_J", "|mu|")}

    def check(case: tuple[int, float]) -> None:
        seed, log_radius = case
        rng = np.random.default_rng(seed)
        rows = int(rng.integers(1, 6))
        game = LQGAN(rng.normal(1.0, 1.0, rows), rng.normal(size=5), 0.3, tuple(rng.uniform(0.0, 1.0, 2)))
        center, radius = rng.normal(size=4), 10.0**log_radius * rng.uniform(0.2, 1.0, 4)
        chosen = np.arange(rows)
        c = bounds.constants(game, Boxes(center[None], radius[None]), chosen).worst()
        signs = np.array(np.meshgrid(*[[-1.0, 1.0]] * 4)).reshape(4, -1).T
        points = center + radius * np.concatenate([signs, rng.uniform(-1.0, 1.0, (400 - len(signs), 4))])
        _attained(game, points, c, tallies)

    drawn = st.tuples(st.integers(0, 2**32 - 1), st.floats(-3.0, -0.3))
    for_all(drawn, examples(preset, 25, 200), check)
    return never_violated(tallies, 0.9, each=True)


def _attained(game: LQGAN, points: Array, c: Constants, tallies: dict[str, Tally]) -> None:
    """Compare what the game attains at these points of the box, and between pairs of them, with its constants."""
    jacobians = game.jacobian(points)
    removed = np.stack([game.jacobian(points, weights) for weights in game.without(np.arange(game.rows.size))], axis=1)
    first, second = (getattr(derivatives_of_f(points[:, 2:] @ game.features.T), name) for name in ("first", "second"))
    length = np.linalg.norm(game.features, axis=1)
    symmetric = (jacobians + np.swapaxes(jacobians, 1, 2)) / 2
    pairs = np.roll(points, 1, axis=0) - points
    moved = np.linalg.norm(np.roll(jacobians, 1, axis=0) - jacobians, 2, axis=(1, 2)) / np.linalg.norm(pairs, axis=1)

    def norms(matrices: Array) -> Array:
        return np.asarray(np.linalg.norm(matrices, 2, axis=(-2, -1)))

    least = float(np.linalg.eigvalsh(symmetric)[:, 0].min())
    shift = float(c.jacobian_norm)  # mu may have any sign: lambda - mu is positive and bounds lambda - attained
    values: dict[str, tuple[Array | float, Array | float]] = {
        "sigma": (norms(np.eye(4) - game.eta * jacobians).max(), float(c.sigma)),
        "sigma_-j": (norms(np.eye(4) - game.eta * removed).max(axis=0), c.sigma_removed),
        "lambda": (norms(jacobians).max(), float(c.jacobian_norm)),
        "L_f": ((np.abs(first) * length / game.rows.size).max(axis=0), c.row_gradient),
        "L_f'": ((np.abs(second) * length**2 / game.rows.size).max(axis=0), c.row_curvature),
        "L_J": (moved.max(), float(c.lipschitz)),
        "|mu|": (shift - least, shift - float(c.monotonicity)),
    }
    for name, (value, constant) in values.items():
        tallies[name].add(value, constant, 1e-13)


@claim(
    "the-certificates-step",
    "the ledger itself, beyond Theorem 1 (c)",
    "One step of the certificate encloses what the counterfactual does, closely, and its gain needs the second "
    "derivative.",
    "bound",
    idea="Taylor's theorem at theta^(t): the rest is bounded by the largest third and fourth derivatives on the "
    "segment.",
)
def the_certificates_step(preset: str) -> Outcome:
    """A step of the certificate is given a large radius and a large influence, and the true influence is placed on the
    surface of what they enclose, along the singular directions of the step's gain and 40 drawn ones. The furthest
    distance of the step's result from its centre against the next radius, over drawn games with few rows."""
    tally, plain = Tally(), Tally()

    def check(case: tuple[int, float, float]) -> None:
        seed, size, spread = case
        found, bound, without = _one_step(seed, 10.0**size, 10.0**spread)
        tally.add(found, bound, 1e-13)
        plain.add(found, without, 1e-13)

    drawn = st.tuples(st.integers(0, 2**32 - 1), st.floats(-2.0, -0.2), st.floats(-3.0, -0.5))
    for_all(drawn, examples(preset, 60, 500), check)
    outcome = never_violated({"with all terms": tally}, 0.9)
    needed = plain.violations > 0
    numbers = dict(outcome.numbers) | {"violations without the second derivative in the gain": plain.violations}
    return replace(outcome, verdict=outcome.verdict if needed else "not tested", numbers=numbers)


def _one_step(seed: int, size: float, spread: float) -> tuple[float, float, float]:
    """Distance of the true next influence from the certificate's centre, its radius, and that radius with |Z| alone."""
    rng = np.random.default_rng(seed)
    game = LQGAN(rng.normal(1.0, 1.0, 3), rng.normal(size=6), 0.3)
    theta, row = rng.normal(size=4), np.array([0])
    guess = size * rng.normal(size=4)
    matrix, jump = game.step_matrix(theta), game.row_jump_jacobians(theta)[0]
    third = SIGNS[:, None, None] * game.third(theta)
    frame = Frame(np.eye(4), np.eye(4))
    alone = np.eye(1)
    given = (game, theta, matrix, jump[None], third, guess[None], np.array([spread]), frame, row, 10.0, alone)
    radius = float(next_radius(*given)[0])
    centre = matrix @ guess + game.row_jumps(theta)[0] + jump @ guess
    centre = centre - 0.5 * game.eta * np.einsum("abc,b,c->a", third, guess, guess)

    def after(influence: Array) -> Array:
        weights = game.without([0])[0]
        moved = theta + influence - game.eta * game.velocity(theta + influence, weights)
        return moved - (theta - game.eta * game.velocity(theta))

    tangent = matrix + jump - game.eta * np.einsum("abc,c->ab", third, guess)
    directions = np.linalg.svd(tangent)[2]
    trials = np.concatenate([directions, -directions, rng.normal(size=(40, 4))])
    trials = spread * trials / np.linalg.norm(trials, axis=1, keepdims=True)
    found = max(float(np.linalg.norm(after(guess + trial) - centre)) for trial in trials)
    return found, radius, float(np.linalg.norm(matrix + jump, 2)) * spread
