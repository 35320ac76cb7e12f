"""TNNLS Section VI, what is said of LQGAN: D(psi, x) = psi_1 x^2 + psi_2 x, G(phi, z) = phi_1 z + phi_2, minimax
loss."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import numpy as np

from verification.dense_lqgan import LQGAN, Array, moment_matching
from verification.judge import close
from verification.ledger import Curve, Number, Outcome, Plot, claim

ETA = 0.01
"""The learning rate of Table V."""


@dataclass(frozen=True)
class Equilibrium:
    """What J and Z are like at the equilibrium of the game with lambda_1 = lambda_2 = `l2`."""

    l2: float
    theta: Array
    velocity: float
    mu: float
    real_part: float
    norm: float
    spectral_radius: float

    @property
    def scale(self) -> float:
        """|phi_1|, the standard deviation that the generator has learnt; the data's is 1."""
        return float(abs(self.theta[0]))


@cache
def sweep(preset: str) -> list[Equilibrium]:
    """Equilibria for lambda_1 = lambda_2 from 0 to 5, followed from one to the next by training, then Newton's method.

    Points where |v| does not fall below 1e-10 are left out: beside the bifurcation Newton's method stalls.
    """
    standard = preset == "standard"
    size = 1000 if standard else 200
    coarse = [0.0, 0.001, 0.01, 0.05, 0.1, 0.2, 0.3, 0.4, 0.45, 0.6, 0.7, 1.0, 2.0, 3.0, 4.0, 5.0]
    fine = [*np.arange(0.15, 0.46, 0.1), *np.arange(0.46, 0.6, 0.01), *np.arange(1.5, 5.0, 0.5)]
    rng = np.random.default_rng(0)
    rows, latents = rng.normal(1.0, 1.0, size), rng.normal(size=size)
    theta, found = moment_matching(rows, latents), []
    for l2 in sorted({round(float(value), 6) for value in (coarse + fine if standard else coarse)}):
        quick = LQGAN(rows, latents, 0.1, (l2, l2))
        theta = quick.train(theta, 1500)[-1]
        try:
            theta = quick.equilibrium(theta)
        except ArithmeticError:
            continue
        found.append(_describe(LQGAN(rows, latents, ETA, (l2, l2)), theta))
    return found


def _describe(game: LQGAN, theta: Array) -> Equilibrium:
    jacobian, step = game.jacobian(theta), game.step_matrix(theta)
    return Equilibrium(
        game.l2[0],
        theta,
        float(np.linalg.norm(game.velocity(theta))),
        float(np.linalg.eigvalsh((jacobian + jacobian.T) / 2.0)[0]),
        float(np.linalg.eigvals(jacobian).real.min()),
        float(np.linalg.norm(step, 2)),
        float(np.abs(np.linalg.eigvals(step)).max()),
    )


@cache
def uneven(preset: str) -> list[tuple[tuple[float, float], Equilibrium]]:
    """Equilibria for lambda_1 below lambda_2, a discriminator that is held much more tightly than the generator."""
    standard = preset == "standard"
    rng = np.random.default_rng(0)
    rows, latents = rng.normal(1.0, 1.0, 200), rng.normal(size=200)
    own = (0.003, 0.01, 0.03, 0.1) if standard else (0.01,)
    found = []
    for pair in [(one, other) for one in own for other in ((3.0, 10.0, 30.0, 100.0) if standard else (30.0,))]:
        eta = min(0.1, 0.5 / pair[1])
        theta = LQGAN(rows, latents, eta, pair).train(np.array([-0.8, 0.8, 0.0, 0.0]), int(100 / eta))[-1]
        try:
            theta = LQGAN(rows, latents, eta, pair).equilibrium(theta)
        except ArithmeticError:
            continue
        found.append((pair, _describe(LQGAN(rows, latents, ETA, pair), theta)))
    return found


@claim(
    "assumption-1-lqgan",
    "TNNLS VI-A1, Assumption 1",
    "LQGAN with the original minimax loss ensures that Assumption 1 holds: the symmetric part of J is at least mu > "
    "0 around theta*.",
    "assumption",
    r"\frac{1}{2}(J(\theta) + J(\theta)^{\top}) \succeq \mu I,\quad \mu > 0",
    reading="Of the game of the experiments, lambda = 0, and of regularised ones.",
    idea="D(0, .) = 0, so V(., psi*) is constant at psi* = 0 and V_phiphi = 0: mu = 0 for every unregularised GAN that "
    "can realise its data, with no number needed. A regulariser adds lambda_1 to V_phiphi, and moves psi* from 0.",
    smallest="What the cited theorem proves is the stability of J's spectrum, and it is all that AID's series needs.",
)
def assumption_1_lqgan(preset: str) -> Outcome:
    """The equilibrium of LQGAN is followed for lambda_1 = lambda_2 from 0 to 5. At lambda = 0 (the experiments) psi* =
    0 and mu = 0: no ball around theta* satisfies Assumption 1. With equal lambdas mu turns negative (V is concave in
    phi in some direction once psi* has left 0), and positive only where the generator has all but collapsed. With a
    discriminator that is regularised much more than the generator mu is positive while the generator has learnt most
    of the data's deviation: the assumption can be had, by changing the game. Hence Lemma 1, Lemma 2, Corollary 2 and
    Theorem 2 say nothing about the LQGAN of the experiments. What holds in its place: lqgan-spectrum."""
    points, others = sweep(preset), uneven(preset)
    plain = points[0]
    negative = [p.l2 for p in points if p.mu < -1e-9]
    positive = [p for p in points if p.mu > 1e-9]
    satisfied = [(pair, p) for pair, p in others if p.mu > 1e-6]
    l2 = [p.l2 for p in points]
    numbers: dict[str, Number] = {
        "equilibria": len(points),
        "largest |v| at them": max(p.velocity for p in points),
        "mu at lambda = 0": plain.mu,
        "|Z| at lambda = 0": plain.norm,
        "spectral radius of Z at lambda = 0": plain.spectral_radius,
        "lowest mu": min(p.mu for p in points),
        "mu < 0 from lambda": min(negative, default="never"),
        "mu < 0 up to lambda": max(negative, default="never"),
        "mu > 0 from lambda": min((p.l2 for p in positive), default="never"),
        "largest |phi_1| where mu > 0": max((p.scale for p in positive), default="none"),
        "equilibria with lambda_1 < lambda_2": len(others),
        "of these with mu > 0": len(satisfied),
    }
    plot = Plot(
        "lambda_1 = lambda_2",
        "at the equilibrium",
        [
            Curve("mu", l2, [p.mu for p in points]),
            Curve("|phi_1|", l2, [p.scale for p in points], "s--"),
            Curve("(|Z| - 1) / eta", l2, [(p.norm - 1.0) / ETA for p in points], "^-"),
            Curve("(spectral radius of Z - 1) / eta", l2, [(p.spectral_radius - 1.0) / ETA for p in points], "v-"),
        ],
        xlog=False,
        ylog=False,
    )
    stable = min(p.real_part for p in points) > 1e-6
    pair, best = max(satisfied, key=lambda one: one[1].scale)
    return Outcome(
        "holds" if min(p.mu for p in points) > 1e-9 else "corrected" if stable else "refuted",
        plain.mu,
        "mu > 0",
        1e-9,
        printed=f"at lambda = 0 mu = {plain.mu:.0e} (V_phiphi = 0 exactly); with equal lambdas it falls to "
        f"{min(p.mu for p in points):.3f}",
        amended="J's spectrum lies in the right half plane at every equilibrium (lqgan-spectrum): least real part "
        f"{min(p.real_part for p in points):.1e}",
        control=f"lambda = {pair} does satisfy it: mu = {best.mu:+.1e} at |phi_1| = {best.scale:.2f} (the data's "
        "deviation is 1)",
        numbers=numbers,
        plot=plot,
    )


@claim(
    "lqgan-spectrum",
    "TNNLS VI-A1 [12], in place of Assumption 1",
    "At every equilibrium that training reaches, J's eigenvalues have positive real part and Z's spectral radius is "
    "below 1.",
    "assumption",
    r"\mathrm{Re}\,\mathrm{spec}\,J(\theta^*) > 0,\qquad \rho(Z(\theta^*)) < 1",
)
def lqgan_spectrum(preset: str) -> Outcome:
    """The same sweep: smallest real part of J's spectrum and spectral radius of Z at eta = 0.01. This is what the
    cited proof gives (local exponential stability) and what makes AID's series converge; it is weaker than Assumption
    1, since J is not normal. At many of these equilibria |Z| > 1 (counted below)."""
    points = sweep(preset)
    lowest = min(p.real_part for p in points)
    radius = max(p.spectral_radius for p in points)
    numbers: dict[str, Number] = {
        "equilibria": len(points),
        "real part at lambda = 0": points[0].real_part,
        "lowest at lambda": min(points, key=lambda p: p.real_part).l2,
        "largest spectral radius": radius,
        "equilibria with |Z| >= 1": sum(p.norm >= 1.0 for p in points),
    }
    l2 = [p.l2 for p in points]
    curves = [
        Curve("smallest real part of J's spectrum", l2, [p.real_part for p in points]),
        Curve("mu", l2, [p.mu for p in points], "s--"),
    ]
    plot = Plot("lambda_1 = lambda_2", "at the equilibrium", curves, xlog=False, ylog=False)
    verdict = "holds" if lowest > 1e-6 and radius < 1.0 - 1e-9 else "refuted"
    return Outcome(verdict, lowest, "positive", 1e-6, numbers=numbers, plot=plot)


@claim(
    "lqgan-converges",
    "TNNLS VI-A1, convergence",
    "theta^(T) converges to the analytical solution of [12, Theorem D.1].",
    "convergence",
    r"\theta^{(T)} \to (\pm\mathrm{std}(x)/\mathrm{std}(z),\; \mathrm{mean}(x) - \varphi_1\mathrm{mean}(z),\; 0,\; 0)",
)
def lqgan_converges(preset: str) -> Outcome:
    """Runs of the unregularised game from N(0, 1) starts. The solution matches mean and variance of the data (both
    signs of phi_1 do) with psi = 0; for data and latents as drawn it is an exact equilibrium of the empirical game.
    Distance in the coordinates of Z's modes, in which a linear rate is a straight line, and its rate over the last
    third of the run against the spectral radius of Z(theta*)."""
    standard = preset == "standard"
    eta, steps, count = (ETA, 20000, 6) if standard else (0.05, 4000, 4)
    rng = np.random.default_rng(0)
    game = LQGAN(rng.normal(1.0, 1.0, 300), rng.normal(size=300), eta)
    run = game.train(rng.normal(size=(count, 4)), steps)
    gaps, rates, radii, lines = [], [], [], []
    shown = np.unique(np.linspace(0, steps, 60).astype(int))
    for k in range(count):
        star = _solution(game, np.sign(run[-1, k, 0]))
        values, right = np.linalg.eig(game.step_matrix(star))
        distance = np.linalg.norm((run[:, k] - star) @ np.linalg.inv(right).T, axis=1)
        tail = np.flatnonzero((distance > 1e-11) & (np.arange(steps + 1) > 2 * steps // 3))
        rates.append(float(np.exp(np.polyfit(tail, np.log(distance[tail]), 1)[0])))
        radii.append(float(np.abs(values).max()))
        gaps.append(float(np.abs(run[-1, k] - star).max()))
        lines.append(Curve(f"start {k + 1}", shown.tolist(), distance[shown].tolist(), "-"))
    worst = max(range(count), key=lambda k: abs(np.log(rates[k]) / np.log(radii[k]) - 1.0))
    equilibrium = max(float(np.linalg.norm(game.velocity(_solution(game, sign)))) for sign in (1.0, -1.0))
    numbers: dict[str, Number] = {
        "starts": count,
        "T": steps,
        "eta": eta,
        "largest |theta^(T) - theta*|": max(gaps),
        "|v| at the analytical solution": equilibrium,
        "observed rate (worst start)": rates[worst],
        "spectral radius of Z(theta*)": radii[worst],
    }
    plot = Plot("step t", "distance to the solution, in Z's modes", lines, xlog=False)
    ratio = float(np.log(rates[worst]) / np.log(radii[worst]))
    if max(gaps) > 1e-3 or equilibrium > 1e-13:
        return Outcome("refuted", max(gaps), 0, 1e-3, numbers=numbers, plot=plot)
    return close(ratio, 1.0, 0.02, numbers, plot)


def _solution(game: LQGAN, sign: float) -> Array:
    """The analytical solution with phi_1 of this sign."""
    scale = sign * moment_matching(game.rows, game.latents)[0]
    return np.array([scale, np.mean(game.rows) - scale * np.mean(game.latents), 0.0, 0.0])


@claim(
    "assumption-2-lqgan",
    "TNNLS VI-A1, Assumption 2",
    "The analytical solution of LQGAN satisfies Assumption 2: J(theta*) is invertible.",
    "assumption",
    r"\det J(\theta^*) \neq 0",
)
def assumption_2_lqgan(preset: str) -> Outcome:
    """Drawn data of 2 to 300 rows, unregularised: J = (0, B; -B^T, C) at psi = 0, so that det J = det(B)^2, and
    |det B| = |phi_1| var(z) / 2 in closed form: invertible exactly when the data are not all equal. Determinant by LU
    against that formula, and the smallest singular value. One row alone (phi_1 = 0) is the exception."""
    rng = np.random.default_rng(0)
    errors, smallest = [], []
    for size in (2, 3, 5, 10, 30, 100, 300) * (20 if preset == "standard" else 5):
        game = LQGAN(rng.normal(1.0, 1.0, size), rng.normal(size=size))
        star = moment_matching(game.rows, game.latents)
        j = game.jacobian(star)
        expected = (star[0] * np.var(game.latents) / 2.0) ** 2
        errors.append(abs(float(np.linalg.det(j)) / expected - 1.0))
        smallest.append(float(np.linalg.svd(j, compute_uv=False)[-1] / np.linalg.norm(j, 2)))
    single = LQGAN(rng.normal(1.0, 1.0, 1), rng.normal(size=10))
    alone = np.linalg.svd(single.jacobian(moment_matching(single.rows, single.latents)), compute_uv=False)
    numbers: dict[str, Number] = {
        "data sets": len(errors),
        "smallest singular value / largest: smallest": min(smallest),
        "smallest singular value / largest: median": float(np.median(smallest)),
        "a single row: smallest / largest singular value": float(alone[-1] / alone[0]),
    }
    verdict = "holds" if max(errors) < 1e-6 and min(smallest) > 1e-10 else "refuted"
    return Outcome(verdict, max(errors), 0, 1e-6, numbers=numbers)
