"""TNNLS Section IV."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

import numpy as np
import torch
from torch import Tensor

import gan_influence as gi
from verification import dense_lqgan, toys
from verification.cost import operations, peak_bytes, process_times
from verification.judge import at_most, close, correction, observed_order, relative, slope
from verification.ledger import Curve, Outcome, Plot, claim


@claim(
    "metric-linearisation",
    "TNNLS eq. 15",
    "The influence on a metric is grad E times the influence on the parameters, to first order.",
    "order",
    r"\Delta E_{-j} \approx \nabla E^{\top}\Delta\theta_{-j}^{(T)}",
)
def metric_linearisation(preset: str) -> Outcome:
    """Runs with w_j = 1 - epsilon: the true change of the metric against grad E (by differences of the metric's values)
    times the true change of the parameters; the remainder must be of second order in epsilon."""
    toy = toys.lqgan(rows=30, steps=100)
    gradient = toy.metric_gradient()
    epsilons = 2.0 ** -np.arange(0, 8)
    remainders = []
    for epsilon in epsilons:
        weights = torch.ones(30, dtype=torch.float64)
        weights[4] = 1 - epsilon
        other = toys.lqgan(rows=30, steps=100, weights=weights)
        change = other.thetas[-1] - toy.thetas[-1]
        remainders.append(abs(float(toy.metric(other.trace) - toy.metric(toy.trace)) - float(gradient @ change)))
    rate = observed_order(epsilons[:6], np.array(remainders[:6]))
    plot = Plot("removed weight epsilon", "remainder", [Curve("remainder", epsilons.tolist(), remainders)])
    return close(rate, 2, 0.1, {"remainder of the full removal": remainders[0]}, plot)


@claim(
    "algorithm-1",
    "TNNLS eq. 10, 16a, 17, Algorithm 1",
    "Algorithm 1 computes grad E times the sum of products of eq. 10.",
    "identity",
    r"\widehat{\Delta E}_{-j} = \sum_{t=0}^{T-1}\Delta v_{-j}(\theta^{(t)})^{\top}"
    r"\left(\prod_{s=t+1}^{T-1}Z(\theta^{(s)})\right)^{\top}\nabla E",
)
def algorithm_1(preset: str) -> Outcome:
    """Eq. 10 dense, times grad E by differences of the metric's values; eq. 17 dense in the reverse order; the core's
    sweep."""
    toy = toys.lqgan(rows=25, steps=60)
    gradient = toy.metric_gradient()
    forward = dense_lqgan.itd(toy.twin, toy.thetas)[-1] @ gradient
    u, reverse = gradient.copy(), np.zeros(25)
    for theta in toy.thetas[-2::-1]:
        reverse += toy.twin.row_jumps(theta) @ u
        u = toy.twin.step_matrix(theta).T @ u
    swept = gi.itd(toy.trace, toy.metric).numpy()
    numbers = {
        "eq. 10 against eq. 17": relative(forward, reverse),
        "Algorithm 1 against eq. 17": relative(swept, reverse),
    }
    return at_most(max(numbers.values()), 1e-8, numbers)


@claim(
    "aid-series",
    "TNNLS eq. 14, 16b, 18",
    "AID-EIGEM is M terms, m = 0 ... M-1, of the Neumann series applied to grad E.",
    "identity",
    r"\widetilde{\Delta E}_{-j} = \Delta v_{-j}(\theta^{(T)})^{\top}\sum_{m=0}^{M-1}(Z(\theta^{(T)})^{\top})^m\nabla E",
)
def aid_series(preset: str) -> Outcome:
    """The core against dense powers of Z, for M = 1, 2, 3, 10 and 100; one term more or less must not fit."""
    toy = toys.lqgan(rows=25, steps=60)
    gradient = toy.metric_gradient()
    counts = [1, 2, 3, 10, 100]
    scores = gi.aid(toy.trace, toy.metric, terms=counts).numpy()
    dense = np.stack([dense_lqgan.aid(toy.twin, toy.thetas[-1], count) @ gradient for count in counts])
    off_by_one = min(
        relative(dense_lqgan.aid(toy.twin, toy.thetas[-1], count + 1) @ gradient, dense[k])
        for k, count in enumerate(counts)
    )
    return at_most(relative(scores, dense), 1e-8, {"one term more would differ by at least (relative)": off_by_one})


@claim(
    "algorithm-2",
    "TNNLS Algorithm 2, IV-C2",
    "Algorithm 2, which starts from w = grad E and repeats w <- Z^T w + grad E for m = 0 ... M-1, computes eq. 18.",
    "algorithm",
    r"w \leftarrow w - \eta J(\theta^{(T)})^{\top}w + \nabla E",
    reading="The loop run as printed, M times from w = grad E, against eq. 18 with the same M.",
    idea="Each pass adds a term, and the start is one already. Harmless once the series has converged.",
    smallest="One pass less, or a start from 0, as the text's own w^(m), a sum of m terms, has it.",
)
def algorithm_2(preset: str) -> Outcome:
    """Algorithm 2 run literally, densely, against eq. 18 with M and with M + 1 terms. The text's own definition of
    w^(m), a sum of m terms, gives w^(0) = 0, not grad E."""
    toy = toys.lqgan(rows=25, steps=60)
    gradient, terms = toy.metric_gradient(), 7
    z, jumps = toy.twin.step_matrix(toy.thetas[-1]), toy.twin.row_jumps(toy.thetas[-1])

    def loop(w: np.ndarray) -> np.ndarray:
        for _ in range(terms):
            w = z.T @ w + gradient
        return jumps @ w

    printed, from_zero = loop(gradient), loop(np.zeros(4))
    eq18 = {count: dense_lqgan.aid(toy.twin, toy.thetas[-1], count) @ gradient for count in (terms, terms + 1)}
    error, with_one_more = relative(printed, eq18[terms]), relative(printed, eq18[terms + 1])
    amended = relative(from_zero, eq18[terms])
    return correction(
        error,
        max(amended, with_one_more),
        1e-12,
        printed=f"with M = {terms} it misses eq. 18 by {error:.2f}, and is {terms + 1} terms to {with_one_more:.0e}",
        amended=f"started from w = 0 (or repeated M - 1 times) it equals eq. 18 to {amended:.0e}",
        control=f"at M = 200 on a regularised game, where the series has all but converged, the printed loop misses "
        f"it by "
        f"{_late(toy):.0e} only",
    )


def _late(toy: toys.Toy) -> float:
    """By how much 201 terms differ from 200, of a regularised game, whose series converges."""
    twin = replace(toy.twin, l2=(0.5, 0.5), eta=0.3)
    gradient = toy.metric_gradient()
    longer, shorter = (dense_lqgan.aid(twin, toy.thetas[-1], count) @ gradient for count in (201, 200))
    return relative(longer, shorter)


@claim(
    "jacobian-vector-product",
    "TNNLS IV-C3",
    "J^T u is computed by the Jacobian-vector-product technique, also known as forward mode.",
    "algorithm",
    r"J(\theta)^{\top}u \neq J(\theta)\,u",
    reading="Forward mode in its usual sense: it computes J u.",
    idea="In the zero-sum game J = S H with S = diag(I, -I) and H symmetric, so J^T = H S = S J S.",
    smallest="Two changes of sign suffice in the paper's zero-sum game; costs that are not zero-sum need reverse mode.",
)
def jacobian_vector_product(preset: str) -> Outcome:
    """The sweep needs J^T u, and forward mode gives J u. In the zero-sum game J^T u = S J (S u) with S = diag(I, "
    "-I), so
    that forward mode does serve, with the discriminator's part negated before and after; as it stands it gives exactly
    minus the scores. In games that are not zero-sum, as ICLR's, the identity fails and reverse mode is needed."""
    toy = toys.lqgan(rows=25, steps=60)
    gradient = toy.metric_gradient()
    scores = {}
    s = np.diag(dense_lqgan.SIGNS)
    for name, turn in (("reverse", lambda z: z.T), ("forward", lambda z: z), ("signs", lambda z: s @ z @ s)):
        u, scores[name] = gradient.copy(), np.zeros(25)
        for theta in toy.thetas[-2::-1]:
            scores[name] += toy.twin.row_jumps(theta) @ u
            u = turn(toy.twin.step_matrix(theta)) @ u
    swept = gi.itd(toy.trace, toy.metric).numpy()
    by_forward, by_reverse = relative(scores["forward"], swept), relative(scores["reverse"], swept)
    with_signs = relative(scores["signs"], swept)
    other = toys.core_jacobian(toys.lqgan(rows=25, steps=60, loss="non_saturating").trace)
    return correction(
        by_forward,
        max(by_reverse, with_signs),
        1e-8,
        printed=f"with J u in place of J^T u the scores are off by {by_forward:.2f} of their norm: they are minus the "
        f"true ones (to {relative(-scores['forward'], swept):.0e})",
        amended=f"with the discriminator's part of u and of J u negated they are equal to {with_signs:.0e}; reverse "
        f"mode: "
        f"to {by_reverse:.0e}",
        control="with the non-saturating loss, not zero-sum, S J S differs from J^T by "
        f"{relative(s @ other @ s, other.T):.2f} of its norm: there only reverse mode serves",
    )


@claim(
    "complexity-itd-time",
    "TNNLS IV-C3, Table I",
    "ITD's time is linear in T and in d.",
    "complexity",
    r"\mathrm{time} = O(T\,d_\theta)",
)
def complexity_itd_time(preset: str) -> Outcome:
    """Floating-point operations of the sweep's matrix products, counted: log-log slopes in T and, for networks of
    growing width whose d grows with the width's square, in d. The process time of sweeps over T steps is shown beside,
    with what each takes beyond the shortest."""
    horizons = np.array([5, 10, 20, 40])
    toy = toys.mlp(steps=40)
    in_t = [operations(partial(gi.itd, toy.trace, toy.metric, last=last)) for last in horizons.tolist()]
    wide = [toys.mlp(steps=2, width=width, lr=0.01, depth=2) for width in WIDTHS]
    in_d = [operations(partial(gi.itd, one.trace, one.metric)) for one in wide]
    times = np.array([250, 500, 750, 1000]) * (1 if preset == "smoke" else 4)
    long = toys.lqgan(rows=50, steps=int(times[-1]), lr=0.01)
    seconds = process_times(lambda last: gi.itd(long.trace, long.metric, last=last), times)
    return _linear_in_both("T", horizons, in_t, [one.trace.game.size for one in wide], in_d, times, seconds)


@claim(
    "complexity-itd-memory",
    "TNNLS IV-C3, Table I",
    "ITD's memory is linear in T.",
    "complexity",
    r"\mathrm{memory} = O(T\,d_\theta)",
)
def complexity_itd_memory(preset: str) -> Outcome:
    """Peak bytes of all live tensors during training and sweep: what a run of T steps adds to a run of 25 steps,
    against T, and per step and parameter (8 bytes each in float64)."""
    steps = np.array([10, 20, 40, 80]) * (1 if preset == "smoke" else 4)
    peaks = np.array([peak_bytes(partial(_train_and_sweep, count)) for count in steps.tolist()])
    added = peaks[1:] - peaks[0]
    rate, half = slope(steps[1:] - steps[0], added)
    per_state = float(added[-1] / (steps[-1] - steps[0]) / toys.mlp(steps=0).trace.game.size)
    numbers = {"95 % half-width": half, "bytes added per step and parameter": per_state}
    plot = Plot("steps T", "peak bytes", [Curve("training and sweep", steps.tolist(), peaks.tolist())])
    return close(rate, 1, 0.05, numbers, plot)


@claim(
    "complexity-aid-time",
    "TNNLS IV-C3, Table I",
    "AID's time is linear in M and in d.",
    "complexity",
    r"\mathrm{time} = O(M\,d_\theta)",
)
def complexity_aid_time(preset: str) -> Outcome:
    """As for ITD: counted operations against M and against d decide, the process time of M terms is shown beside."""
    counts = np.array([5, 10, 20, 40])
    toy = toys.mlp(steps=2)

    def run(one: toys.Toy, terms: int) -> object:
        return gi.aid(one.trace, one.metric, terms=terms, damping=1.0)

    once = operations(lambda: run(toy, 1))
    in_m = [operations(partial(run, toy, terms + 1)) - once for terms in counts.tolist()]
    wide = [toys.mlp(steps=2, width=width, lr=0.01, depth=2) for width in WIDTHS]
    in_d = [operations(partial(run, one, 10)) for one in wide]
    small = toys.lqgan(rows=50, steps=10, lr=0.01)
    times = np.array([250, 500, 750, 1000]) * (1 if preset == "smoke" else 4)
    seconds = process_times(lambda terms: run(small, terms), times)
    return _linear_in_both("M", counts, in_m, [one.trace.game.size for one in wide], in_d, times, seconds)


@claim(
    "complexity-aid-memory",
    "TNNLS IV-C3, Table I",
    "AID's memory does not grow with T or M, and is linear in d: it needs theta^(T), w and grad E only.",
    "complexity",
    r"\mathrm{memory} = O(d_\theta)",
)
def complexity_aid_memory(preset: str) -> Outcome:
    """Peak bytes of all live tensors while AID runs, for M = 10 and M = 500 and for runs of 5 and 100 steps, and for
    networks of growing width. It also holds the graph of one gradient, which grows with d and with the rows."""
    short, long = toys.mlp(steps=5), toys.mlp(steps=100)

    def peak(toy: toys.Toy, terms: int) -> int:
        return peak_bytes(lambda: gi.aid(toy.trace, toy.metric, terms=terms, damping=1.0))

    base = peak(short, 10)
    growth = {"M from 10 to 500": peak(short, 500) / base - 1, "T from 5 to 100": peak(long, 10) / base - 1}
    wide = [toys.mlp(steps=1, width=width, lr=0.01, depth=2) for width in WIDTHS]
    sizes = np.array([toy.trace.game.size for toy in wide])
    grown = np.array([peak(toy, 10) for toy in wide])
    rate, half = slope(sizes[1:], grown[1:])
    numbers = {f"growth, {name}": value for name, value in growth.items()}
    numbers |= {"log-log slope in d": rate, "95 % half-width": half}
    plot = Plot("parameters d", "peak bytes", [Curve("AID, M = 10", sizes.tolist(), grown.tolist())])
    if max(growth.values()) > 0.05:
        return at_most(max(growth.values()), 0.05, numbers, plot)
    return close(rate, 1, 0.15, numbers, plot)


@claim(
    "damping-as-regulariser",
    "TNNLS IV-C4",
    "Replacing J by J + gamma I corresponds to adding gamma |theta|^2 / 2 to the cost function.",
    "identity",
    r"J(\theta) + \gamma I",
    reading="The paper has one cost, V; 'the cost function' can also be read as each player's own.",
    idea="v has grad_phi V and -grad_psi V, so that what is added to V is subtracted for the discriminator.",
    smallest="Per player the sentence is right. It speaks of J alone: a regulariser would also move theta^(t).",
)
def damping_as_regulariser(preset: str) -> Outcome:
    """The paper has one cost, V. Adding the term to V changes J by diag(+gamma, -gamma): it damps the generator and
    amplifies the discriminator. Adding it to each player's own cost (l2 = (gamma, gamma)) gives J + gamma I: AID with
    damping equals dense AID of that game at the same theta."""
    gamma = 0.7
    toy = toys.lqgan(rows=25, steps=60)
    h = toy.twin.hessian(toy.thetas[-1]) + gamma * np.eye(4)
    to_v = dense_lqgan.SIGNS[:, None] * h
    wanted = toy.twin.jacobian(toy.thetas[-1]) + gamma * np.eye(4)
    printed = float(np.abs(to_v - wanted).max())
    damped = gi.aid(toy.trace, toy.metric, terms=50, damping=gamma)
    regularised = replace(toy.twin, l2=(gamma, gamma))
    amended = relative(damped.numpy(), dense_lqgan.aid(regularised, toy.thetas[-1], 50) @ toy.metric_gradient())
    return correction(
        printed,
        amended,
        1e-8,
        printed=f"added to V, the discriminator's block of J changes by -gamma: J is off by {printed:.2f} = 2 gamma",
        amended=f"added to each player's own cost, V + gamma (|phi|^2 - |psi|^2)/2: scores equal to {amended:.0e}",
        control=f"the generator's block, for which both readings are one, is off by {_block(to_v - wanted):.0e}",
    )


def _block(matrix: np.ndarray) -> float:
    """The largest entry of the generator's block."""
    return float(np.abs(matrix[:2, :2]).max())


@claim(
    "one-sweep-for-all",
    "TNNLS IV-C5",
    "One sweep scores all N rows: line 4 of Algorithm 1 does not depend on the row.",
    "identity",
    r"\widehat{\Delta E}_{-j},\; j = 1,\ldots,N",
)
def one_sweep_for_all(preset: str) -> Outcome:
    """All scores of one sweep against N sweeps of Algorithm 1, each with the product J^T u and one row's own gradient;
    on a network, with products by autograd and no code of the core's sweep."""
    toy = toys.mlp()
    scores = gi.itd(toy.trace, toy.metric).numpy()
    single = np.array([_algorithm_1_for_one_row(toy, j) for j in range(6)])
    return at_most(relative(scores[:6], single), 1e-11, {"rows by their own sweep": 6, "T": toy.trace.steps})


def _algorithm_1_for_one_row(toy: toys.Toy, row: int) -> float:
    """TNNLS Algorithm 1 as printed, for one row."""
    trace, game = toy.trace, toy.trace.game
    theta = trace.theta().clone().requires_grad_()
    (u,) = torch.autograd.grad(toy.metric.value(gi.Players(game, theta)), theta)
    score = 0.0
    for t in reversed(range(trace.steps)):
        inputs = trace.inputs(t)
        theta = trace.theta(t).clone().requires_grad_()
        generator_loss, discriminator_loss = game.losses(theta, inputs)[0].values()
        of_generator, of_discriminator = (
            torch.autograd.grad(cost, theta, create_graph=True)[0] for cost in (generator_loss, discriminator_loss)
        )
        v = torch.cat([game.split(of_generator)[0], game.split(of_discriminator)[1]])
        cost = game.loss.real(game.discriminator.at(game.split(theta)[1])(inputs.rows[row : row + 1]).reshape(-1)).sum()
        (change,) = torch.autograd.grad(cost, theta)
        score += toy.lr / len(trace.data) * float(change @ u)
        (product,) = torch.autograd.grad(v @ u, theta)
        u = u - toy.lr * product
    return score


WIDTHS = (32, 64, 128, 256)


def _linear_in_both(
    name: str,
    lengths: np.ndarray,
    in_length: list[int],
    sizes: list[int],
    in_size: list[int],
    timed: np.ndarray,
    seconds: list[float],
) -> Outcome:
    """Both slopes of counted operations within 0.1 of 1; the slope of process time beside, which noise can move."""
    of_length, half_length = slope(lengths, np.array(in_length))
    of_size, half_size = slope(np.array(sizes), np.array(in_size))
    of_time, half_time = slope(timed[1:] - timed[0], np.maximum(np.array(seconds[1:]) - seconds[0], 1e-9))
    worst = max((of_length, of_size), key=lambda rate: abs(rate - 1))
    numbers = {
        f"operations, slope in {name}": of_length,
        f"95 % half-width in {name}": half_length,
        "operations, slope in d": of_size,
        "95 % half-width in d": half_size,
        f"process time, slope in {name}": of_time,
        "95 % half-width of that": half_time,
        "microseconds each": float(1e6 * (seconds[-1] - seconds[0]) / (timed[-1] - timed[0])),
    }
    plot = Plot(name, "seconds of process time", [Curve("measured", timed.tolist(), seconds)])
    return close(worst, 1, 0.1, numbers, plot)


def _train_and_sweep(steps: int) -> Tensor:
    toy = toys.mlp(steps=steps)
    return gi.itd(toy.trace, toy.metric)
