"""TNNLS Section II."""

from __future__ import annotations

import numpy as np
import torch

import gan_influence as gi
from verification import toys
from verification.judge import at_most, relative
from verification.ledger import Outcome, claim


@claim(
    "minimax-f",
    "TNNLS II-B, below eq. 2",
    "The original minimax objective is recovered by f(a) = -log(1/(1+exp(-a))), with f and g concave.",
    "identity",
    r"f(a) = -\log\frac{1}{1+e^{-a}}",
    reading="As printed; II-B asks for concave f and g.",
    idea="-log sigmoid is softplus(-a), whose second derivative s (1 - s) is positive.",
    smallest="One minus sign.",
)
def minimax_f(preset: str) -> Outcome:
    """Second derivatives on a grid: the printed f is softplus(-a), convex, so that eq. 1 would maximise a convex
    function; without the minus sign f = log sigmoid is concave and V is Goodfellow's objective."""
    a = np.linspace(-8, 8, 1601)
    sigmoid = 1 / (1 + np.exp(-a))
    printed = -np.log(sigmoid)
    curvature = np.diff(printed, 2) / (a[1] - a[0]) ** 2
    toy = toys.lqgan(rows=30, steps=0)
    inputs, players = toy.trace.inputs(0), toy.trace.players()
    fake = players.discriminate(players.generate(inputs.latents)).detach().numpy()
    real = players.discriminate(inputs.rows).detach().numpy()
    goodfellow = np.mean(np.log(1 / (1 + np.exp(-real)))) + np.mean(np.log(1 - 1 / (1 + np.exp(-fake))))
    costs, _ = toy.trace.game.losses(toy.trace.theta(), inputs)
    error = abs(-float(costs["discriminator"]) - goodfellow)
    wrong = bool(curvature.min() > 0)
    verdict = "corrected" if wrong and error < 1e-12 else "refuted" if wrong else "holds"
    return Outcome(
        verdict,
        float(curvature.min()),
        "f'' <= 0",
        1e-12,
        printed=f"the printed f has f'' between {curvature.min():.1e} and {curvature.max():.3f} on [-8, 8]: convex",
        amended=f"f(a) = log(1/(1+exp(-a))) has f'' <= 0 and gives Goodfellow's V to {error:.1e}",
        control=f"the same second differences of log sigmoid are at most {-curvature.min():.1e}",
    )


@claim(
    "agd-step",
    "TNNLS eq. 3-4",
    "Adversarial gradient descent moves theta by -eta (grad_phi V, -grad_psi V).",
    "identity",
    r"\theta^{(t+1)} = \theta^{(t)} - \eta\,v(\theta^{(t)})",
)
def agd_step(preset: str) -> Outcome:
    """The core's trajectory against the dense twin's, in closed form and without torch."""
    errors = []
    for seed in range(3):
        for l2 in ((0.0, 0.0), (0.3, 0.7)):
            toy = toys.lqgan(steps=60, l2=l2, seed=seed)
            errors.append(relative(toy.thetas, toy.twin.train(toy.thetas[0], 60)))
    return at_most(max(errors), 1e-12, {"runs": len(errors), "steps each": 60})


@claim(
    "counterfactual-agd",
    "TNNLS eq. 5-8, Definition 1",
    "Removing row j subtracts f(D(psi, x_j))/|X| from V and leaves the denominator alone; the influence on "
    "parameters is the difference of the two runs.",
    "identity",
    r"V_{-j} = V - \frac{1}{|\mathcal{X}|}f(D(\psi, x_j))",
)
def counterfactual_agd(preset: str) -> Outcome:
    """Every row's counterfactual run, by the core (as one batch of models, and one by one) against the dense twin."""
    toy = toys.lqgan(steps=40)
    count = len(toy.trace.data)
    dense = toy.twin.train(toy.thetas[0], 40, toy.twin.without(range(count)))[-1] - toy.thetas[-1]
    batched = np.stack(
        [
            gi.counterfactual(toy.trace, toys.ParameterMetric(direction), [[j] for j in range(count)]).numpy()
            for direction in torch.eye(4, dtype=torch.float64)
        ],
        axis=1,
    )
    single = np.stack([(gi.retrain(toy.trace, [j]).theta() - toy.trace.theta()).numpy() for j in range(5)])
    error = max(relative(batched, dense), relative(single, dense[:5]))
    return at_most(error, 1e-10, {"rows": count, "steps": 40})
