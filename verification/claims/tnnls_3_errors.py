"""TNNLS Section III-D and Appendix A.

Every bound meets drawn games: sizes, data, learning rate, regularisation, T and M. Its constants are upper bounds
over a region that holds both runs and the segments between them (`verification.bounds`), never sampled maxima.
"""

from __future__ import annotations

from fractions import Fraction

import numpy as np
from hypothesis import assume
from hypothesis import strategies as st

from verification import bounds
from verification.bounds import Constants
from verification.drawn import (
    PAIR,
    Contraction,
    Logistic,
    Removals,
    contractions,
    examples,
    for_all,
    removals,
    retrained,
    rounding,
)
from verification.judge import at_most, slope
from verification.ledger import Curve, Number, Outcome, Plot, claim
from verification.lqgan import LQGAN, Array, aid
from verification.tally import Tally, mended, never_violated

# Convergence of Z ----------------------------------------------------------------------------------


@claim(
    "lemma-1",
    "TNNLS Lemma 1, Appendix A-A",
    "If the symmetric part of J is at least mu on the ball and eta < 2 mu / lambda^2, then sigma_B < 1.",
    "bound",
    r"\|Z(\theta)\|^2 \leq 1 - 2\eta\mu + \eta^2\lambda^2 < 1",
)
def lemma_1(preset: str) -> Outcome:
    """Drawn matrices of 1 to 6 parameters with known mu and lambda, and regularised LQGANs with rigorous mu and lambda
    on a ball, |Z| taken at points drawn in it. Equality is met by J = mu I."""
    matrices, games = Tally(), Tally()
    below_one: list[float] = []

    def matrix(case: tuple[int, int, float]) -> None:
        seed, size, share = case
        rng = np.random.default_rng(seed)
        root, twist = rng.normal(size=(2, size, size))
        j = rng.uniform(0.0, 1.0) * (root @ root.T) + rng.uniform(0.01, 1.0) * np.eye(size)
        j = j + rng.uniform(0.0, 2.0) * (twist - twist.T)
        mu, norm = float(np.linalg.eigvalsh((j + j.T) / 2.0)[0]), float(np.linalg.norm(j, 2))
        eta = share * 2.0 * mu / norm**2
        limit = bounds.lemma_1(mu, norm, eta)
        below_one.append(limit)
        matrices.add(float(np.linalg.norm(np.eye(size) - eta * j, 2)), limit, 1e-14)

    def ball(case: Contraction) -> None:
        c, game = case.constants, case.removals.game
        limit = bounds.lemma_1(float(c.monotonicity), float(c.jacobian_norm), game.eta)
        below_one.append(limit)
        directions = np.random.default_rng(0).normal(size=(50, 4))
        points = case.equilibrium + case.radius * directions / np.linalg.norm(directions, axis=1, keepdims=True)
        games.add(np.linalg.norm(game.step_matrix(points), 2, axis=(1, 2)), limit, 1e-14)

    seeds = st.integers(0, 2**32 - 1)
    for_all(st.tuples(seeds, st.integers(1, 6), st.floats(0.01, 0.99)), examples(preset, 200, 2000), matrix)
    for_all(contractions((0,)), examples(preset, 15, 100), ball)
    outcome = never_violated({"matrices": matrices, "LQGAN on balls": games})
    if max(below_one) >= 1.0:
        return Outcome("refuted", max(below_one), "below 1", numbers=outcome.numbers)
    return outcome


@claim(
    "lemma-2",
    "TNNLS Lemma 2, Appendix A-A",
    "Under Assumptions 1 and 4 and eta < 2 mu / lambda^2 every run from the ball converges to theta*, the only "
    "equilibrium in it.",
    "convergence",
    r"\theta^{(T)} \to \theta^*\quad (T\to\infty)",
)
def lemma_2(preset: str) -> Outcome:
    """Strongly regularised LQGANs, where mu > 0 on a ball by rigorous constants: eight runs from its surface until
    sigma_B^T would bring them below 1e-9, all of which must end at the equilibrium that Newton's method found."""
    tally = Tally()

    def check(case: Contraction) -> None:
        game, sigma = case.removals.game, float(case.constants.sigma)
        steps = int(np.ceil(np.log(1e-9) / np.log(sigma)))
        assume(steps < 3000)
        directions = np.random.default_rng(1).normal(size=(8, 4))
        starts = case.equilibrium + case.radius * directions / np.linalg.norm(directions, axis=1, keepdims=True)
        ends = np.linalg.norm(game.train(starts, steps)[-1] - case.equilibrium, axis=1)
        tally.add(ends, 1e-9 * case.radius, rounding(0, 1.0))

    for_all(contractions((0,)), examples(preset, 10, 40), check)
    return never_violated({"runs": tally})


# Theorem 1 -----------------------------------------------------------------------------------------


@claim(
    "mean-value-theorem",
    "TNNLS Appendix A-A, proof of Lemma 3",
    "By Lagrange's mean value theorem one r(s) in [0, 1] makes the difference of the two runs exact in all parameters.",
    "identity",
    r"\exists r:\;\theta_{-j}^{(s+1)} - \theta^{(s+1)} = \Delta v_{-j}(\theta_r) + Z(\theta_r)(\theta_{-j}^{(s)} - "
    r"\theta^{(s)})",
)
def mean_value_theorem(preset: str) -> Outcome:
    """The mean value theorem holds for scalar functions only. The residual is evaluated on a grid of r; with its
    Lipschitz constant in r (rigorous, from L_f' and L_J) that is a lower bound over all of [0, 1]: where it is
    positive no r exists. In its place: Z averaged over the segment (Gauss-Legendre) makes the difference exact, and
    |average - Z(theta)| <= eta L_J |Delta theta| / 2, so that Lemma 3 and Theorem 1 survive, with half of L_J."""
    rng = np.random.default_rng(0)
    game = LQGAN(rng.normal(1.0, 1.0, 8), rng.normal(size=8), eta=0.2)
    case = retrained(game, rng.normal(size=4), 6 if preset == "standard" else 3)
    nodes, weights = np.polynomial.legendre.leggauss(24)
    grid = np.linspace(0.0, 1.0, 4001)
    certified, pairs, exact, halved = [], 0, [], Tally()
    for s in range(1, case.steps):
        for j in range(8):
            here, d = case.run[s], case.truth[s, j]
            jump_here = case.truth[s + 1, j]
            path = here + grid[:, None] * d
            residual = game.row_jumps(path)[:, j] + game.step_matrix(path) @ d - jump_here
            size, c = float(np.linalg.norm(d)), case.constants
            lipschitz = game.eta * (float(c.row_curvature[j]) + float(c.lipschitz) * size) * size
            floor = np.linalg.norm(residual, axis=1).min() - lipschitz / (2.0 * (len(grid) - 1)) - case.allowance
            pairs += 1
            certified.append(float(floor))
            z = game.step_matrix(here + 0.5 * (nodes[:, None] + 1.0) * d)
            average = np.einsum("r,rab->ab", weights / 2.0, z)
            rebuilt = game.row_jumps(case.removed[s, j])[j] + average @ d
            exact.append(float(np.abs(rebuilt - jump_here).max()))
            deviation = float(np.linalg.norm(average - game.step_matrix(here), 2))
            halved.add(deviation, 0.5 * game.eta * float(c.lipschitz) * size, case.allowance)
    impossible = sum(floor > 0.0 for floor in certified)
    repaired = max(exact) <= 1e-13 and halved.violations == 0
    verdict = "holds" if impossible == 0 else "corrected" if repaired else "refuted"
    return Outcome(
        verdict,
        impossible,
        "0 pairs (s, j) without an r",
        0,
        printed=f"no r in [0, 1] exists for {impossible} of {pairs} pairs (s, j); the residual stays above "
        f"{max(certified):.1e} in the clearest one",
        amended="with Delta v at theta_-j^(s) and Z averaged over the segment the difference is exact to "
        f"{max(exact):.0e}, and |average - Z| <= eta L_J |Delta theta| / 2 in all {pairs} cases",
        numbers=halved.numbers("|average - Z| against eta L_J |d| / 2"),
    )


@claim(
    "lemma-3",
    "TNNLS Lemma 3, Appendix A-A",
    "The two runs part no faster than a geometric sum in sigma.",
    "bound",
    r"\|\theta_{-j}^{(t)} - \theta^{(t)}\| \leq \eta L_f\frac{1-\sigma^t}{1-\sigma}",
)
def lemma_3(preset: str) -> Outcome:
    """Drawn LQGANs, all rows and all t, sigma above and below 1, T from 0 on; sigma and L_f over a box around both
    runs. (Its proof's mean value theorem is a claim of its own; the averaged Z has the same norm bound.)"""
    above, below = Tally(), Tally()

    def check(case: Removals) -> None:
        tally = above if float(case.constants.sigma) > 1.0 else below
        distance = np.linalg.norm(case.truth, axis=-1)
        tally.add(distance, bounds.lemma_3(case.constants, case.steps), case.allowance)

    for_all(removals(), examples(preset, 60, 600), check)
    return never_violated({"sigma > 1": above, "sigma < 1": below}, above.plot())


@claim(
    "lemma-4",
    "TNNLS Lemma 4, eq. 24",
    "The arithmetic-geometric sum has the printed closed form, for a != 1 and M > 0.",
    "identity",
    r"\sum_{m=0}^{M-1}m a^m = \frac{a(1-a^{M-1})}{(1-a)^2} - \frac{(M-1)a^M}{1-a}",
)
def lemma_4(preset: str) -> Outcome:
    """Exact rational arithmetic, a drawn from fractions on both sides of 1 (0 excluded only at M = 1, where the form
    is 0/1), M from 1 on; and the double-precision form against it."""
    mismatches, cases, worst = 0, 0, 0.0

    def check(case: tuple[Fraction, int]) -> None:
        nonlocal mismatches, cases, worst
        a, terms = case
        exact = sum((m * a**m for m in range(terms)), Fraction(0))
        closed = a * (1 - a ** (terms - 1)) / (1 - a) ** 2 - (terms - 1) * a**terms / (1 - a)
        mismatches += exact != closed
        cases += 1
        if abs(a - 1) > Fraction(1, 10):
            worst = max(worst, abs(bounds.lemma_4(float(a), terms) / float(exact) - 1.0) if exact else 0.0)

    ratios = st.fractions(Fraction(1, 50), 4, max_denominator=1000).filter(lambda a: a != 1)
    for_all(st.tuples(ratios, st.integers(1, 25)), examples(preset, 300, 2000), check)
    numbers = {"cases": cases, "largest relative error in double, |a - 1| > 0.1": worst}
    return at_most(mismatches + (worst > 1e-9), 0, numbers)


@claim(
    "theorem-1",
    "TNNLS Theorem 1",
    "ITD's error is bounded by the printed expression in sigma, L_f, L_f', L_J, for any T >= 0 and sigma != 1.",
    "bound",
    r"\|\widehat{\Delta\theta_{-j}} - \Delta\theta_{-j}^{(T)}\| \leq "
    r"\frac{\eta^2L_fL_{f'}}{(\sigma-1)^2}(T\sigma^{T-1}(\sigma-1)-\sigma^T+1) + "
    r"\frac{\eta^3L_f^2L_J}{(\sigma-1)^3}(\sigma^{2T-1}-(2T-1)(\sigma-1)\sigma^{T-1}-1)",
)
def theorem_1(preset: str) -> Outcome:
    """Drawn LQGANs, every row removed, T from 0 on, sigma above and below 1. The constants are suprema over a box
    around both runs, which is all that the proof uses; suprema over all of R^d, as printed, are larger or infinite
    (see theorem-1-global-constants)."""
    above, below = Tally(), Tally()

    def check(case: Removals) -> None:
        sigma = float(case.constants.sigma)
        if sigma != 1.0:
            tally = above if sigma > 1.0 else below
            tally.add(case.errors[-1], bounds.theorem_1(case.constants, case.steps), case.allowance)

    for_all(removals(), examples(preset, 100, 1000), check)
    return never_violated({"sigma > 1": above, "sigma < 1": below}, above.plot())


@claim(
    "theorem-1-global-constants",
    "TNNLS Theorem 1, Assumption 3",
    "sigma, the maximum of |Z| over R^d, and L_J, a Lipschitz constant of J on R^d, are finite, so that Theorem 1 "
    "says something about LQGAN.",
    "assumption",
    r"\sigma := \max_{\theta\in R^d}\|Z(\theta)\| < \infty,\quad \|J(\theta)-J(\theta')\| \leq L_J\|\theta-\theta'\|",
)
def theorem_1_global_constants(preset: str) -> Outcome:
    """|J| and the norm of J's derivative along theta = (0, 0, 0, psi_2): V_phiphi contains psi_2^2/4 z z^T, so |J|
    grows with slope 2 and its derivative with slope 1 in log-log. Neither maximum exists, and the theorem's hypothesis
    is never met. With suprema over a box around the two runs the same inequality has finite constants and holds."""
    rng = np.random.default_rng(0)
    game = LQGAN(rng.normal(1.0, 1.0, 100), rng.normal(size=100))
    sizes = np.logspace(1.0, 4.0, 7)
    points = sizes[:, None] * np.array([0.0, 0.0, 0.0, 1.0])
    norms = np.linalg.norm(game.jacobian(points), 2, axis=(1, 2))
    thirds = np.array([np.linalg.norm(game.third(point)[0].ravel()) for point in points])
    growth, growth_third = slope(sizes, norms)[0], slope(sizes, thirds)[0]
    local = Tally()
    steps = 50 if preset == "standard" else 10
    for seed in range(4 if preset == "standard" else 2):
        case = retrained(game, np.random.default_rng(seed).normal(size=4), steps)
        local.add(case.errors[-1], bounds.theorem_1(case.constants, steps), case.allowance)
    unbounded = growth > 1.9 and growth_third > 0.9
    return Outcome(
        mended(unbounded, local),
        growth,
        "growth 0 (bounded)",
        0.1,
        printed=f"|J(0, 0, 0, psi_2)| = {norms[0]:.3g}, {norms[2]:.3g}, {norms[4]:.3g} at psi_2 = 10, 100, 1000 "
        f"(slope {growth:.3f}; its derivative: slope {growth_third:.3f}): sigma and L_J are infinite",
        amended=f"with suprema over a box around both runs: {local.violations} violations in {len(local.measured)} "
        "removals",
        numbers=local.numbers("local constants"),
        plot=Plot(
            "psi_2",
            "norm at (0, 0, 0, psi_2)",
            [
                Curve("J", sizes.tolist(), norms.tolist()),
                Curve("derivative of J", sizes.tolist(), thirds.tolist(), "s-"),
            ],
        ),
    )


@claim(
    "theorem-1-edges",
    "TNNLS eq. 26-27, Theorem 1 at T = 0, 1, 2 and sigma -> 1",
    "The two brackets of Theorem 1 are the sums that its proof bounds the error by, at every T and sigma, and 0 at "
    "T <= 1.",
    "identity",
    r"\sum_{k<T}\sigma^{T-1-k}S_k = \frac{T\sigma^{T-1}(\sigma-1)-\sigma^T+1}{(\sigma-1)^2},\quad "
    r"S_k=\sum_{i<k}\sigma^i",
)
def theorem_1_edges(preset: str) -> Outcome:
    """Exact rational arithmetic: the double sums of (26) and (27) against the printed brackets, T from 0 on, sigma
    drawn on both sides of 1 and as close to it as 1 + 1e-12. Three readings agree: (26), (27), and the recursion sum
    sigma^(T-1-k) S_k^2. Near sigma = 1 the printed formula is useless in double precision (the numbers show by how
    much), at sigma = 1 it is 0/0 and its limits are T(T-1)/2 and (T-1)T(2T-1)/6."""
    mismatches, cases = 0, 0

    def check(case: tuple[Fraction, int]) -> None:
        nonlocal mismatches, cases
        sigma, steps = case
        first, second = _brackets(sigma, steps)
        sums = _proof_sums(sigma, steps)
        mismatches += (first, second, second) != sums
        cases += 1

    ratios = st.fractions(Fraction(1, 50), 4, max_denominator=500).filter(lambda a: a != 1)
    near = st.integers(1, 12).flatmap(lambda k: st.sampled_from([1 + Fraction(1, 10**k), 1 - Fraction(1, 10**k)]))
    for_all(st.tuples(st.one_of(ratios, near), st.integers(0, 14)), examples(preset, 150, 800), check)

    tiny = 1 + Fraction(1, 10**12)
    limits = [(Fraction(T * (T - 1), 2), Fraction((T - 1) * T * (2 * T - 1), 6)) for T in range(2, 12)]
    gaps = [
        abs(float(value / limit - 1))
        for T, pair in enumerate(limits, start=2)
        for value, limit in zip(_brackets(tiny, T), pair, strict=True)
    ]
    zero = max(abs(float(b)) for T in (0, 1) for b in _brackets(Fraction(101, 100), T))
    offsets = [10.0**-k for k in range(1, 9)]
    double = [_double_error(1.0 + offset, 10) for offset in offsets]
    numbers: dict[str, Number] = {
        "cases": cases,
        "brackets at T = 0 and 1": zero,
        "relative distance from the limit at sigma = 1 + 1e-12": max(gaps),
        "second bracket in double, sigma = 1.001, T = 10: relative error": double[2],
        "sigma = 1.00001": double[4],
        "sigma = 1.0000001": double[6],
    }
    plot = Plot("sigma - 1", "relative error of the second bracket in double", [Curve("T = 10", offsets, double)])
    return at_most(mismatches + (zero > 0.0) + (max(gaps) > 1e-9), 0, numbers, plot)


def _brackets(sigma: Fraction, steps: int) -> tuple[Fraction, Fraction]:
    """Theorem 1's two brackets over (sigma - 1)^2 and (sigma - 1)^3."""
    power, excess = sigma ** (steps - 1), sigma - 1
    first = (steps * power * excess - sigma**steps + 1) / excess**2
    second = (sigma ** (2 * steps - 1) - (2 * steps - 1) * excess * power - 1) / excess**3
    return first, second


def _proof_sums(sigma: Fraction, steps: int) -> tuple[Fraction, Fraction, Fraction]:
    """The sums of (26), of (27), and of the error's recursion, term by term."""
    s = [sum((sigma**i for i in range(k)), Fraction(0)) for k in range(steps + 1)]
    first = sum((sigma ** (steps - 1 - k) * s[k] for k in range(steps)), Fraction(0))
    second = sum((sigma ** (steps - 2 - k) * sum(s[k + 1 : steps], Fraction(0)) for k in range(steps)), Fraction(0))
    recursion = sum((sigma ** (steps - 1 - k) * s[k] ** 2 for k in range(steps)), Fraction(0))
    return first, second, recursion


def _double_error(sigma: float, steps: int) -> float:
    """The relative error of the second bracket as printed, in double precision."""
    literal = sigma ** (2 * steps - 1) - (2 * steps - 1) * (sigma - 1.0) * sigma ** (steps - 1) - 1.0
    exact = float(_brackets(Fraction(sigma), steps)[1])
    return max(abs(literal / (sigma - 1.0) ** 3 / exact - 1.0), 1e-17)


@claim(
    "corollary-1",
    "TNNLS Corollary 1",
    "For sigma > 1 ITD's error grows at most like sigma^(2T-1).",
    "bound",
    r"\|\widehat{\Delta\theta_{-j}} - \Delta\theta_{-j}^{(T)}\| \leq \frac{\eta^2L_fL_{f'}}{(\sigma-1)^2}T\sigma^T + "
    r"\frac{\eta^3L_f^2L_J}{(\sigma-1)^3}\sigma^{2T-1}",
)
def corollary_1(preset: str) -> Outcome:
    """Drawn LQGANs with sigma > 1 on a box around both runs, every row, T from 0 on. Rigorous and very loose: the
    discarded terms cancel most of the kept ones unless sigma^T is large."""
    tally = Tally()

    def check(case: Removals) -> None:
        if float(case.constants.sigma) > 1.0:
            tally.add(case.errors[-1], bounds.corollary_1(case.constants, case.steps), case.allowance)

    for_all(removals(), examples(preset, 100, 1000), check)
    return never_violated({"sigma > 1": tally}, tally.plot())


@claim(
    "corollary-2",
    "TNNLS Corollary 2",
    "Under Assumptions 1, 3 and 4 and eta < 2 mu / lambda^2, ITD's error stays below a constant for any T > 0.",
    "bound",
    r"\|\widehat{\Delta\theta_{-j}} - \Delta\theta_{-j}^{(T)}\| \leq "
    r"\frac{\eta^2L_fL_{f'}}{(1-\sigma_B)^2}(1-\sigma_B^T) + \frac{\eta^3L_f^2L_J}{(1-\sigma_B)^3}(1-\sigma_B^{2T-1})",
)
def corollary_2(preset: str) -> Outcome:
    """The assumptions put theta^(0) into the ball, not the counterfactual run, on which sigma_B says nothing once it
    has left. Witness: no generator, D = psi x, rows +1 and -1, lambda_2 = 0.001, eta = 1, started at theta* = 0, with
    L_f, L_f' and L_J over all of R. Amended: the ball holds the counterfactual run too; strongly regularised LQGANs,
    all rows."""
    rho, horizons = 1e-6, list(range(1, 201))
    c = PAIR.constants(PAIR.equilibrium(), rho, 0)
    run, removed, influence = PAIR.train(0.0, 200), PAIR.train(0.0, 200, removed=0), [0.0]
    for psi in run[:-1]:
        influence.append((1.0 - PAIR.eta * PAIR.jacobian(psi)) * influence[-1] + PAIR.jump(psi, 0))
    errors = [abs(influence[t] - (removed[t] - run[t])) for t in horizons]
    limits = [float(bounds.corollary_2(c, t)[0]) for t in horizons]
    assumed = float(c.monotonicity) > 0.0 and PAIR.eta < 2.0 * float(c.monotonicity) / float(c.jacobian_norm) ** 2
    fails = assumed and errors[99] > limits[99]

    tally = Tally()

    def check(case: Contraction) -> None:
        steps = case.removals.steps
        tally.add(case.removals.errors[-1], bounds.corollary_2(case.constants, steps), case.removals.allowance)

    for_all(contractions((1, 2, 3, 10, 40)), examples(preset, 15, 120), check)
    return Outcome(
        mended(fails, tally),
        errors[99],
        f"at most {limits[99]:.4f}",
        rounding(100, 5.0),
        printed=f"rows +1 and -1, mu = {float(c.monotonicity):.3f}: at T = 100 the error is {errors[99]:.4f}, the "
        f"bound {limits[99]:.4f}; the counterfactual run went to {removed[100]:.2f}, out of a ball of radius {rho}",
        amended=f"where the ball holds the counterfactual run as well: {tally.violations} violations in "
        f"{len(tally.measured)} removals",
        numbers=tally.numbers("amended") | {"witness at T = 0 (excluded by T > 0)": float(bounds.corollary_2(c, 0)[0])},
        plot=Plot(
            "T", "witness", [Curve("error", horizons, errors, "-"), Curve("printed bound", horizons, limits, "--")]
        ),
    )


# Theorem 2 -----------------------------------------------------------------------------------------


@claim(
    "lemma-5",
    "TNNLS Lemma 5, Appendix A-B",
    "Under Assumptions 1 and 4 the run approaches theta* at the rate sigma_B.",
    "bound",
    r"\|\theta^{(T)} - \theta^*\| \leq \rho\,\sigma_B^T",
)
def lemma_5(preset: str) -> Outcome:
    """The printed lemma leaves out eta < 2 mu / lambda^2. Without it the run may leave the ball, where sigma_B no
    longer bounds Z. Witness: no generator, one row x = 1, lambda_2 = 0.3, eta = 20, rho = 0.1; J falls with psi > 0,
    so sigma_B is attained at an end of the ball. Amended: with that condition, on strongly regularised LQGANs."""
    game, rho = Logistic(np.array([1.0]), eta=20.0, l2=0.3), 0.1
    star = game.equilibrium()
    ends = [game.jacobian(star - rho), game.jacobian(star + rho)]
    sigma = max(abs(1.0 - game.eta * j) for j in ends)
    assumed = star > rho and min(ends) > 0.0
    run = np.array(game.train(star + rho, 8))
    distance, limit = np.abs(run - star), bounds.lemma_5(sigma, rho, 8)
    excess = distance / limit
    worst = int(excess[1:].argmax()) + 1
    fails = bool(assumed and excess[worst] > 1.0 + 1e-9)

    tally = Tally()

    def check(case: Contraction) -> None:
        run, sigma = case.removals.run, float(case.constants.sigma)
        distance = np.linalg.norm(run - case.equilibrium, axis=1)
        tally.add(distance, bounds.lemma_5(sigma, case.rho, case.removals.steps), case.removals.allowance)

    for_all(contractions(), examples(preset, 15, 120), check)
    return Outcome(
        mended(fails, tally),
        float(excess[worst]),
        "distance / bound at most 1",
        1e-9,
        printed=f"x = 1, lambda_2 = 0.3, eta = 20 (2 mu / lambda^2 = {2 * min(ends) / max(ends) ** 2:.2f}): mu = "
        f"{min(ends):.3f} > 0, sigma_B = {sigma:.2f}, and at T = {worst} the distance is {distance[worst]:.4g}, the "
        f"bound {limit[worst]:.4g}",
        amended=f"with eta < 2 mu / lambda^2: {tally.violations} violations in {len(tally.measured)} states",
        numbers=tally.numbers("amended"),
    )


@claim(
    "lemma-6",
    "TNNLS Lemma 6, Appendix A-B",
    "Under Assumption 1 a removal moves the equilibrium by at most L_F / (1 - sigma_B), with theta*_-j := theta*_-j,0.",
    "bound",
    r"\|\theta^*_{-j} - \theta^*\| \leq \frac{\eta L_f}{1-\sigma_B}",
)
def lemma_6(preset: str) -> Outcome:
    """theta*_-j,0 is theta* itself (eq. 11 at epsilon = 0), so that the printed left side is 0; epsilon = 1 is meant.
    Even then the ball must hold theta*_-j, which Assumption 1 does not say. Witness: no generator, rows +1 and -1,
    lambda_2 = 0.001, eta = 1. Amended: the ball holds theta*_-j; strongly regularised LQGANs."""
    star, moved = PAIR.equilibrium(), PAIR.equilibrium(removed=0)
    limit = float(bounds.lemma_6(PAIR.constants(star, 1e-6, 0))[0])
    fails = abs(moved - star) > limit * (1.0 + 1e-9)

    tally = Tally()

    def check(case: Contraction) -> None:
        distance = np.linalg.norm(case.shifted - case.equilibrium, axis=1)
        tally.add(distance, bounds.lemma_6(case.constants), 1e-12)

    for_all(contractions((0,)), examples(preset, 15, 120), check)
    return Outcome(
        mended(fails, tally),
        abs(moved - star),
        f"at most {limit:.4f}",
        1e-9,
        printed="theta*_-j,0 - theta* is 0 by definition; with epsilon = 1, rows +1 and -1: the equilibrium moves "
        f"by {abs(moved - star):.3f}, the bound is {limit:.3f}, because the ball does not reach it",
        amended=f"with epsilon = 1 and theta*_-j in the ball: {tally.violations} violations in "
        f"{len(tally.measured)} removals",
        numbers=tally.numbers("amended"),
    )


@claim(
    "theorem-2-step-33",
    "TNNLS eq. 30-33, Appendix A-B",
    "AID at theta^(T) and at theta* differ by at most a term with 1 - sigma_B^(M-1), because that is less than 1 - "
    "sigma_B^M.",
    "bound",
    r"\|\widetilde{\Delta\theta_{-j}} - \sum_{m<M}Z(\theta^*)^m\Delta v_{-j}(\theta^*)\| \leq "
    r"\left(\frac{\eta L_{f'}}{1-\sigma_B} + "
    r"\frac{\eta^2L_fL_J}{(1-\sigma_B)^2}\right)\rho\sigma_B^T(1-\sigma_B^{M-1})",
)
def theorem_2_step_33(preset: str) -> Outcome:
    """1 - s^(M-1) < 1 - s^M is true, and used backwards: (30) has 1 - s^M, (32) has 1 - s^(M-1), and their sum is
    replaced by the smaller of the two. At M = 1 the printed bound is 0 while AID = Delta v_-j does depend on theta.
    Strongly regularised LQGANs, all rows, M = 1, 2, 3, 10: the measured difference against the printed right side, and
    against the same with 1 - s^M."""
    printed = {terms: Tally() for terms in (1, 2, 3, 10)}
    amended = Tally()
    backwards = []

    def check(case: Contraction) -> None:
        game, c = case.removals.game, case.constants
        contracted = float(c.sigma) ** case.removals.steps * case.rho
        for terms, tally in printed.items():
            measured = np.linalg.norm(
                aid(game, case.removals.run[-1], terms) - aid(game, case.equilibrium, terms), axis=1
            )
            factor = _drift_factor(c) * contracted
            short, full = 1.0 - float(c.sigma) ** (terms - 1), 1.0 - float(c.sigma) ** terms
            backwards.append(short < full)
            tally.add(measured, factor * short, 1e-13)
            amended.add(measured, factor * full, 1e-13)

    for_all(contractions((0, 1, 3, 10)), examples(preset, 15, 120), check)
    failures = {terms: tally.violations for terms, tally in printed.items()}
    numbers: dict[str, Number] = {
        f"M = {terms}: violations of {len(tally.measured)}": tally.violations for terms, tally in printed.items()
    }
    largest = {m: t.largest for m, t in printed.items() if m > 1}
    numbers |= {f"M = {terms}: largest measured / printed": value for terms, value in largest.items()}
    return Outcome(
        mended(failures[1] > 0, amended),
        failures[1],
        "0 violations at M = 1",
        1e-13,
        printed=f"at M = 1 the bound is 0 and the difference up to {max(printed[1].measured):.1e}: {failures[1]} of "
        f"{len(printed[1].measured)} removals violate it; 1 - s^(M-1) < 1 - s^M in {sum(backwards)} of "
        f"{len(backwards)} cases, so it cannot replace it in an upper bound",
        amended=f"with 1 - s^M for both: {amended.violations} violations in {len(amended.measured)} cases",
        numbers=numbers | amended.numbers("amended"),
    )


def _drift_factor(c: Constants) -> Array:
    """eta L_f' / (1 - s) + eta^2 L_f L_J / (1 - s)^2, the bracket of (33)."""
    gap = 1.0 - float(c.sigma)
    return c.eta * c.row_curvature / gap + c.eta**2 * c.row_gradient * c.lipschitz / gap**2


@claim(
    "theorem-2",
    "TNNLS Theorem 2",
    "Under Assumptions 1 to 4 and eta < 2 mu / lambda^2 AID's error is bounded for any T >= 0 and M > 0.",
    "bound",
    r"\|\widetilde{\Delta\theta_{-j}} - \Delta\theta_{-j}^{(T)}\| \leq "
    r"\left(\frac{\eta L_{f'}}{1-\sigma_B} + "
    r"\frac{\eta^2L_fL_J}{(1-\sigma_B)^2}\right)\rho\sigma_B^T(1-\sigma_B^{M-1}) + "
    r"\frac{\eta L_f\sigma_B^M}{1-\sigma_B} + 2\rho\sigma_B^T + \frac{\eta^3L_f^2L_J}{(1-\sigma_B)^3} + "
    r"\frac{\eta^2L_fL_{f'}}{(1-\sigma_B)^2}",
)
def theorem_2(preset: str) -> Outcome:
    """Two steps fail: (33) (a claim of its own), and (39), which lets the counterfactual run, which contracts by Z_-j
    and starts within rho of theta*, converge to theta*_-j from within rho at the rate sigma_B. With theta^(0) = theta*
    and a small rho that is plainly wrong at T = 0: the truth is 0, AID is not. Witnesses: no generator, 1000 rows +1
    and -1, with L_f, L_f' and L_J over all of R; and LQGAN with lambda = 2. Amended: 1 - s^M in the first term, rho
    s^T + (rho + eta L_f/(1-s)) s_j^T with s_j = sup |Z_-j| for 2 rho s^T, and a ball that holds theta*_-j and both
    runs; drawn strongly regularised LQGANs, T from 0, M = 1, 2, 3, 10, 100."""
    rho, terms = 1e-6, 20
    pair = Logistic(np.tile([1.0, -1.0], 500), eta=1.0, l2=1e-3)
    c = pair.constants(pair.equilibrium(), rho, 0)
    z = 1.0 - pair.eta * pair.jacobian(pair.equilibrium())
    error = abs(sum(z**m for m in range(terms)) * pair.jump(pair.equilibrium(), 0))
    limit = float(bounds.theorem_2(c, rho, 0, terms)[0])
    assumed = float(c.monotonicity) > 0.0 and pair.eta < 2.0 * float(c.monotonicity) / float(c.jacobian_norm) ** 2

    tally = Tally()

    def check(case: tuple[Contraction, int]) -> None:
        drawn, count = case
        runs = drawn.removals
        measured = np.linalg.norm(aid(runs.game, runs.run[-1], count) - runs.truth[-1], axis=1)
        amended = bounds.theorem_2_amended(drawn.constants, drawn.rho, runs.steps, count)
        tally.add(measured, amended, runs.allowance)

    counts = st.sampled_from([1, 2, 3, 10, 100])
    for_all(st.tuples(contractions(), counts), examples(preset, 15, 150), check)
    ratio, monotone = _theorem_2_on_lqgan(rho, terms=5)
    return Outcome(
        mended(assumed and error > limit, tally),
        error / limit,
        "error / bound at most 1",
        1e-9,
        printed=f"1000 rows +1 and -1, theta^(0) = theta* = 0, T = 0, M = {terms}, rho = {rho}: AID's error is "
        f"{error:.2e}, the bound {limit:.2e}; on LQGAN with lambda = 2, eta = 0.3, M = 5 the error is {ratio:.1f} "
        "times the bound",
        amended=f"{tally.violations} violations in {len(tally.measured)} removals",
        numbers=tally.numbers("amended") | {"LQGAN witness: mu": monotone, "LQGAN witness: error / printed": ratio},
    )


def _theorem_2_on_lqgan(rho: float, terms: int) -> tuple[float, float]:
    """Error over printed bound at theta^(0) = theta*, T = 0, largest of 50 rows; and mu on the ball."""
    rng = np.random.default_rng(0)
    game = LQGAN(rng.normal(1.0, 1.0, 1000), rng.normal(size=1000), 0.3, (2.0, 2.0))
    star, rows = game.equilibrium(np.array([0.0, 0.05, 0.2, 0.1])), np.arange(50)
    c = bounds.constants(game, bounds.ball_box(star, rho), rows, reach=rho).worst()
    errors = np.linalg.norm(aid(game, star, terms)[rows], axis=1)
    return float((errors / bounds.theorem_2(c, rho, 0, terms)).max()), float(c.monotonicity)
