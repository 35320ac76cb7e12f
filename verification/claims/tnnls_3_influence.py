"""TNNLS Section III-A to III-C."""

from __future__ import annotations

import numpy as np
import torch

import gan_influence as gi
from verification import dense_lqgan, toys
from verification.judge import at_most, close, observed_order, relative, removal_derivative, richardson, slope
from verification.ledger import Curve, Outcome, Plot, claim

SMOOTH_LOSSES = ("minimax", "non_saturating", "wasserstein", "least_squares", "softplus")


@claim(
    "itd-finite-differences",
    "TNNLS eq. 10, 15-17",
    "ITD is the derivative of counterfactual training in the removed row's weight.",
    "order",
    r"\widehat{\Delta E}_{-j} = -\left.\frac{\mathrm{d}E(\theta^{(T)}(w))}{\mathrm{d}w_j}\right|_{w=1}",
)
def itd_finite_differences(preset: str) -> Outcome:
    """Central differences of training at w_j = 1 +- h over a ladder of h: order 2 until rounding, and after Richardson
    extrapolation agreement to eight digits; for every smooth loss, several T, with and without regulariser (the hinge
    has a claim of its own)."""
    horizons = (3, 20, 100) if preset == "standard" else (3, 20)
    orders, errors, curves = [], [], []
    for loss in SMOOTH_LOSSES:
        for l2 in ((0.0, 0.0), (0.2, 0.4)):
            for steps in horizons:
                toy = toys.lqgan(rows=30, steps=steps, lr=0.02, loss=loss, l2=l2, start=toys.START)
                scores = gi.itd(toy.trace, toy.metric)
                j = int(scores.abs().argmax())
                exact = float(scores[j])
                central = toys.central_differences(toy, j, toys.STEPS)
                ladder = np.abs(central - exact) / abs(exact)
                leading = ladder[:6]
                if leading.min() > 1e-7:  # truncation, not rounding
                    orders.append(observed_order(toys.STEPS[:6], leading))
                errors.append(relative(richardson(central[3:6]), np.array(exact)))
                if steps == 20 and l2 == (0.0, 0.0):
                    curves.append(Curve(loss, toys.STEPS.tolist(), np.maximum(ladder, 1e-16).tolist()))
    worst_order = max(orders, key=lambda order: abs(order - 2))
    plot = Plot("step h in w_j", "relative error of the central difference", curves)
    numbers = {
        "observed order, lowest": min(orders),
        "observed order, highest": max(orders),
        "runs whose order shows above rounding": len(orders),
        "runs": len(errors),
        "largest relative error after Richardson": max(errors),
    }
    if abs(worst_order - 2) > 0.1:
        return close(worst_order, 2, 0.1, numbers, plot)
    return at_most(max(errors), 1e-8, numbers, plot)


@claim(
    "damped-itd-finite-differences",
    "TNNLS IV-C4, eq. 10",
    "With damping gamma, ITD is the derivative of a counterfactual run that is tethered to the factual one.",
    "order",
    r"\theta_w^{(t+1)} = \theta_w^{(t)} - \eta\left(v_w(\theta_w^{(t)}) + \gamma(\theta_w^{(t)} - \theta^{(t)})\right)",
)
def damped_itd_finite_differences(preset: str) -> Outcome:
    """What damped ITD differentiates: the tether leaves the factual run as it is and turns J into J + gamma I. Central
    differences with Richardson extrapolation of that run, for every smooth loss and several gamma."""
    errors = []
    metric = toys.ParameterMetric(torch.tensor([0.7, -0.4, 0.0, 0.0], dtype=torch.float64))
    for loss in SMOOTH_LOSSES:
        for gamma in (0.1, 2.0):
            toy = toys.lqgan(rows=30, steps=40, lr=0.02, loss=loss, start=toys.START)
            scores = gi.itd(toy.trace, metric, damping=gamma).numpy()
            j = int(np.abs(scores).argmax())
            shifts = np.array([0.1, 0.05, 0.025])
            ends = _tethered_ends(toy, gamma, j, np.concatenate([shifts, -shifts])) @ metric.direction.numpy()
            central = -(ends[:3] - ends[3:]) / (2 * shifts)
            errors.append(relative(richardson(central), scores[j]))
    return at_most(max(errors), 1e-8, {"runs": len(errors)})


def _tethered_ends(toy: toys.Toy, gamma: float, j: int, shifts: np.ndarray) -> np.ndarray:
    """theta^(T) of runs with w_j = 1 + shift that are pulled towards the factual run: (shifts, d)."""
    trace = toy.trace
    weights = trace.weights.repeat(len(shifts), 1)
    weights[:, j] += torch.tensor(shifts)
    theta = trace.theta(0).repeat(len(shifts), 1)
    inputs = trace.inputs(0)
    for t in range(trace.steps):
        v = torch.cat(trace.game.field(trace.game.leaves(theta), inputs._replace(weights=weights))[0], dim=-1)
        theta = theta - toy.lr * (v + gamma * (theta - trace.theta(t)))
    return theta.numpy()


@claim(
    "removal-remainder",
    "TNNLS eq. 9 and its interpolation in epsilon",
    "What the linear approximation leaves out of a removal is of second order in the removed weight epsilon.",
    "order",
    r"\|\theta_{-j,\epsilon}^{(T)} - \theta^{(T)} - \epsilon\,\widehat{\Delta\theta_{-j}}\| = O(\epsilon^2)",
)
def removal_remainder(preset: str) -> Outcome:
    """Runs with w_j = 1 - epsilon against epsilon times ITD, epsilon from 1 to 1/256: log-log slope 2."""
    toy = toys.lqgan(rows=30, steps=100, lr=0.05)
    epsilons = 2.0 ** -np.arange(0, 9)
    influence = dense_lqgan.itd(toy.twin, toy.thetas)[-1]
    j = int(np.linalg.norm(influence, axis=1).argmax())
    remainders = []
    for epsilon in epsilons:
        weights = torch.ones(30, dtype=torch.float64)
        weights[j] = 1 - epsilon
        ends = toys.lqgan(rows=30, steps=100, lr=0.05, weights=weights).thetas[-1]
        remainders.append(float(np.linalg.norm(ends - toy.thetas[-1] - epsilon * influence[j])))
    rate, half = slope(epsilons, np.array(remainders))
    curve = Curve("remainder", epsilons.tolist(), remainders)
    numbers = {"95 % half-width of the slope": half, "remainder of the full removal": remainders[0]}
    return close(rate, 2, 0.1, numbers, Plot("removed weight epsilon", "norm of the remainder", [curve]))


@claim(
    "removal-of-sets",
    "TNNLS IV-C5, VI-C (scores of single rows used for sets)",
    "The error of summed scores grows with the square of the removed set's size.",
    "order",
    r"\left|\Delta E_{-S} - \sum_{j\in S}\widehat{\Delta E}_{-j}\right| = O(|S|^2)",
)
def removal_of_sets(preset: str) -> Outcome:
    """Copies of one row, removed k at a time (so that only the size of the set changes), against k times its score."""
    sizes = np.array([1, 2, 4, 8, 16, 32])
    normal = gi.datasets.normal_1d
    rows = 400
    data = normal(rows, seed=0)
    data[:32] = 2.5
    latents = normal(rows, mean=0.0, seed=1)
    game = gi.Game(*gi.models.lqgan(seed=0))
    trace = gi.train(game, data, gi.FullBatch(latents), 100, gi.SGD(0.05))
    metric = gi.metrics.AverageLogLikelihood(normal(rows, seed=2), normal(rows, mean=0.0, seed=3))
    score = float(gi.itd(trace, metric)[0])
    truth = gi.counterfactual(trace, metric, [list(range(size)) for size in sizes]).numpy()
    errors = np.abs(truth - sizes * score)
    rate, half = slope(sizes, errors)
    plot = Plot("size of the removed set", "|truth - sum of scores|", [Curve("error", sizes.tolist(), errors.tolist())])
    return close(rate, 2, 0.15, {"95 % half-width of the slope": half}, plot)


@claim(
    "eq10-recursion",
    "TNNLS eq. 9-10",
    "The recursion of eq. 9 from zero gives the sum of products of eq. 10.",
    "identity",
    r"\widehat{\Delta\theta_{-j}} = \sum_{t=0}^{T-1}\left(\prod_{s=t+1}^{T-1}Z(\theta^{(s)})\right)"
    r"\Delta v_{-j}(\theta^{(t)})",
)
def eq10_recursion(preset: str) -> Outcome:
    """The products of eq. 10, multiplied out densely, against the recursion, and against the core's sweep for each
    parameter's own direction."""
    toy = toys.lqgan(rows=20, steps=30)
    twin, thetas = toy.twin, toy.thetas
    total = np.zeros((20, 4))
    for t in range(30):
        product = np.eye(4)
        for s in range(t + 1, 30):
            product = twin.step_matrix(thetas[s]) @ product
        total += twin.row_jumps(thetas[t]) @ product.T
    swept = np.stack(
        [gi.itd(toy.trace, toys.ParameterMetric(direction)).numpy() for direction in torch.eye(4).double()], axis=1
    )
    recursion = dense_lqgan.itd(twin, thetas)[-1]
    return at_most(max(relative(recursion, total), relative(swept, total)), 1e-11, {"rows": 20, "T": 30})


@claim(
    "implicit-derivative",
    "TNNLS eq. 11-12",
    "The derivative of the equilibrium in the interpolation epsilon is (I - Z)^{-1} Delta v.",
    "order",
    r"\mathrm{d}_\epsilon\theta^*_{-j,0} = (I - Z(\theta^*))^{-1}\Delta v_{-j}(\theta^*)",
)
def implicit_derivative(preset: str) -> Outcome:
    """Equilibria of the reweighted game by Newton's method, differenced in the weight with Richardson extrapolation,
    for a regularised LQGAN and for the unregularised one."""
    errors = []
    for l2 in ((0.0, 0.0), (0.2, 0.2)):
        toy = toys.lqgan(rows=30, steps=0, l2=l2)
        twin = toy.twin
        star = twin.equilibrium(dense_lqgan.moment_matching(twin.rows, twin.latents))
        exact = dense_lqgan.aid_limit(twin, star)
        for j in (0, 7, 21):

            def root(weight: float, j: int = j, twin: dense_lqgan.LQGAN = twin, star: np.ndarray = star) -> np.ndarray:
                weights = np.ones(30)
                weights[j] = weight
                return twin.equilibrium(star, weights, tolerance=1e-13)

            errors.append(relative(removal_derivative(root, 0.2), exact[j]))
    return at_most(max(errors), 1e-7, {"equilibria": 2, "rows each": 3})


@claim(
    "aid-neumann-limit",
    "TNNLS eq. 12-14",
    "The truncated Neumann series converges to the inverse, at the rate of Z's spectral radius.",
    "convergence",
    r"\sum_{m=0}^{M-1}Z^m\Delta v \;\to\; (I-Z)^{-1}\Delta v",
)
def aid_neumann_limit(preset: str) -> Outcome:
    """At the equilibrium of a regularised LQGAN: error against M, its rate against the spectral radius, and the core's
    GMRES solution against the dense inverse."""
    toy = toys.lqgan(rows=30, steps=4000, lr=0.05, l2=(0.2, 0.2))
    direction = torch.tensor([1.0, 0.5, 0.0, 0.0], dtype=torch.float64)
    metric = toys.ParameterMetric(direction)
    exact = dense_lqgan.aid_limit(toy.twin, toy.thetas[-1]) @ direction.numpy()
    counts = [50, 100, 200, 300, 400]
    series = gi.aid(toy.trace, metric, terms=counts).numpy()
    errors = np.linalg.norm(series - exact, axis=1)
    rate = float(np.exp(np.polyfit(counts, np.log(errors), 1)[0]))
    radius = float(np.abs(np.linalg.eigvals(toy.twin.step_matrix(toy.thetas[-1]))).max())
    solved = relative(gi.aid(toy.trace, metric, solver="gmres").numpy(), exact)
    numbers = {"spectral radius of Z": radius, "GMRES against the dense inverse": solved}
    plot = Plot("terms M", "error of AID", [Curve("error", counts, errors.tolist())], xlog=False)
    if solved > 1e-9:
        return at_most(solved, 1e-9, numbers, plot)
    return close(rate, radius, 0.005, numbers, plot)


@claim(
    "block-form",
    "TNNLS III-C",
    "In blocks, eq. 9 has (I - eta H_phi) and (I + eta H_psi) on its diagonal, -eta J_phipsi, +eta J_phipsi^T beside.",
    "identity",
    r"Z = I - \eta J,\quad J = \left(H_\varphi,\; J_{\varphi\psi};\; -J_{\varphi\psi}^{\top},\; -H_\psi\right)",
)
def block_form(preset: str) -> Outcome:
    """The Hessian blocks of V by differencing V twice, against the core's J, column by column of J^T products. It
    needs the zero-sum game: with the non-saturating loss the two off-diagonal blocks are no longer each other's
    transposes."""
    toy = toys.lqgan(rows=25, steps=10)
    j = toys.core_jacobian(toy.trace)
    h = toy.twin.hessian(toy.thetas[-1])
    printed = np.block([[h[:2, :2], h[:2, 2:]], [-h[:2, 2:].T, -h[2:, 2:]]])
    other = toys.core_jacobian(toys.lqgan(rows=25, steps=10, loss="non_saturating").trace)
    asymmetry = relative(other[2:, :2], -other[:2, 2:].T)
    return at_most(relative(j, printed), 1e-12, {"non-saturating: |J_psiphi + J_phipsi^T| / |J_phipsi|": asymmetry})


@claim(
    "two-steps-to-the-generator",
    "TNNLS III-C",
    "A row's absence reaches the discriminator one step later, the generator only two steps later, through J_phipsi.",
    "identity",
    r"\Delta\varphi_{-j}^{(t+1)} = 0,\qquad \Delta\varphi_{-j}^{(t+2)} = -\eta J_{\varphi\psi}\Delta\psi_{-j}^{(t+1)}",
)
def two_steps_to_the_generator(preset: str) -> Outcome:
    """The influence on phi after one step must be exactly zero, in the truth and in ITD, non-zero after two, and equal
    to -eta J_phipsi times the influence on psi."""
    direction = torch.tensor([1.0, 0.0, 0.0, 0.0], dtype=torch.float64)
    toy = toys.lqgan(rows=20, steps=2)
    removals = [[j] for j in range(20)]
    truth = gi.counterfactual(toy.trace, toys.ParameterMetric(direction), removals, at=[1, 2]).numpy()
    scores = gi.itd(toy.trace, toys.ParameterMetric(direction), at=[1, 2]).numpy()
    off_diagonal = toy.twin.jacobian(toy.thetas[1])[:2, 2:]
    expected = -toy.lr * toy.twin.row_jumps(toy.thetas[0])[:, 2:] @ off_diagonal.T
    after_one = float(max(np.abs(truth[0]).max(), np.abs(scores[0]).max()))
    error = relative(scores[1], expected[:, 0])
    smallest = float(np.abs(truth[1]).min())
    holds = after_one == 0.0 and smallest > 0.0
    return Outcome(
        "holds" if holds and error <= 1e-12 else "refuted",
        max(after_one, error),
        0,
        "exactly 0 after one step, 1e-12 after two",
        numbers={"after one step": after_one, "smallest after two": smallest, "ITD against -eta J_phipsi dpsi": error},
    )
