"""TNNLS Section IV."""

from __future__ import annotations

import time
import weakref
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

import gan_influence as gi
from verification import games, lqgan
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
    toy = games.lqgan(rows=30, steps=100)
    gradient = toy.metric_gradient()
    epsilons = 2.0 ** -np.arange(0, 8)
    remainders = []
    for epsilon in epsilons:
        weights = torch.ones(30, dtype=torch.float64)
        weights[4] = 1 - epsilon
        other = games.lqgan(rows=30, steps=100, weights=weights)
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
    toy = games.lqgan(rows=25, steps=60)
    gradient = toy.metric_gradient()
    forward = lqgan.itd(toy.twin, toy.thetas)[-1] @ gradient
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
    toy = games.lqgan(rows=25, steps=60)
    gradient = toy.metric_gradient()
    counts = [1, 2, 3, 10, 100]
    scores = gi.aid(toy.trace, toy.metric, terms=counts).numpy()
    dense = np.stack([lqgan.aid(toy.twin, toy.thetas[-1], count) @ gradient for count in counts])
    off_by_one = min(
        relative(lqgan.aid(toy.twin, toy.thetas[-1], count + 1) @ gradient, dense[k]) for k, count in enumerate(counts)
    )
    return at_most(relative(scores, dense), 1e-8, {"one term more would differ by at least (relative)": off_by_one})


@claim(
    "algorithm-2",
    "TNNLS Algorithm 2, IV-C2",
    "Algorithm 2, which starts from w = grad E and repeats w <- Z^T w + grad E for m = 0 ... M-1, computes eq. 18.",
    "algorithm",
    r"w \leftarrow w - \eta J(\theta^{(T)})^{\top}w + \nabla E",
)
def algorithm_2(preset: str) -> Outcome:
    """Algorithm 2 run literally, densely, against eq. 18 with M and with M + 1 terms. The text's own definition of
    w^(m), a sum of m terms, gives w^(0) = 0, not grad E."""
    toy = games.lqgan(rows=25, steps=60)
    gradient, terms = toy.metric_gradient(), 7
    z, jumps = toy.twin.step_matrix(toy.thetas[-1]), toy.twin.row_jumps(toy.thetas[-1])

    def loop(w: np.ndarray) -> np.ndarray:
        for _ in range(terms):
            w = z.T @ w + gradient
        return jumps @ w

    printed, from_zero = loop(gradient), loop(np.zeros(4))
    eq18 = {count: lqgan.aid(toy.twin, toy.thetas[-1], count) @ gradient for count in (terms, terms + 1)}
    error, with_one_more = relative(printed, eq18[terms]), relative(printed, eq18[terms + 1])
    amended = relative(from_zero, eq18[terms])
    return correction(
        error,
        max(amended, with_one_more),
        1e-12,
        printed=f"with M = {terms} it misses eq. 18 by {error:.2f}, and is {terms + 1} terms to {with_one_more:.0e}",
        amended=f"started from w = 0 (or repeated M - 1 times) it equals eq. 18 to {amended:.0e}",
    )


@claim(
    "jacobian-vector-product",
    "TNNLS IV-C3",
    "J^T u is computed by the Jacobian-vector-product technique, also known as forward mode.",
    "algorithm",
    r"J(\theta)^{\top}u \neq J(\theta)\,u",
)
def jacobian_vector_product(preset: str) -> Outcome:
    """Forward mode gives J u. J is not symmetric, so the sweep needs J^T u, a vector-Jacobian product, by reverse
    mode. With forward mode's product in its place the scores are wrong."""
    toy = games.lqgan(rows=25, steps=60)
    gradient = toy.metric_gradient()
    scores = {}
    for name, turn in (("reverse", lambda z: z.T), ("forward", lambda z: z)):
        u, scores[name] = gradient.copy(), np.zeros(25)
        for theta in toy.thetas[-2::-1]:
            scores[name] += toy.twin.row_jumps(theta) @ u
            u = turn(toy.twin.step_matrix(theta)) @ u
    swept = gi.itd(toy.trace, toy.metric).numpy()
    by_forward, by_reverse = relative(scores["forward"], swept), relative(scores["reverse"], swept)
    return correction(
        by_forward,
        by_reverse,
        1e-8,
        printed=f"with J u of forward mode the scores are off by {by_forward:.2f} of their norm",
        amended=f"J^T u is a vector-Jacobian product, reverse mode: equal to {by_reverse:.0e}",
    )


@claim(
    "complexity-itd-time",
    "TNNLS IV-C3, Table I",
    "ITD's time is linear in T.",
    "complexity",
    r"\mathrm{time} = O(T\,d_\theta)",
)
def complexity_itd_time(preset: str) -> Outcome:
    """Process time of the sweep over T steps of one run, the smaller of several; log-log slope."""
    horizons = np.array([400, 1000, 2000, 4000]) * (1 if preset == "smoke" else 2)
    toy = games.lqgan(rows=50, steps=int(horizons[-1]), lr=0.01)
    seconds = _quickest(
        lambda last: gi.itd(toy.trace, toy.metric, last=int(last)), horizons, 1 if preset == "smoke" else 3
    )
    return _linear(horizons, seconds, "steps T", "seconds")


@claim(
    "complexity-itd-memory",
    "TNNLS IV-C3, Table I",
    "ITD's memory is linear in T.",
    "complexity",
    r"\mathrm{memory} = O(T\,d_\theta)",
)
def complexity_itd_memory(preset: str) -> Outcome:
    """Bytes of the trace that ITD needs, for growing T and for growing d."""
    horizons = np.array([50, 100, 200, 400])
    sizes = [games.mlp(steps=int(steps)).trace.states.nbytes for steps in horizons]
    rate, half = slope(horizons, np.array(sizes))
    wide = games.mlp(steps=50, width=24).trace
    narrow = games.mlp(steps=50, width=6).trace
    ratio = wide.states.nbytes / narrow.states.nbytes / (wide.game.size / narrow.game.size)
    numbers = {"95 % half-width": half, "bytes per (T+1) d": sizes[0] / 51 / narrow.game.size, "growth in d": ratio}
    plot = Plot("steps T", "bytes", [Curve("trace", horizons.tolist(), sizes)])
    return close(rate, 1, 0.05, numbers, plot)


@claim(
    "complexity-aid-time",
    "TNNLS IV-C3, Table I",
    "AID's time is linear in M.",
    "complexity",
    r"\mathrm{time} = O(M\,d_\theta)",
)
def complexity_aid_time(preset: str) -> Outcome:
    """Process time of M terms at the end of one run, the smaller of several; log-log slope."""
    counts = np.array([500, 1500, 3000, 6000]) * (1 if preset == "smoke" else 2)
    toy = games.lqgan(rows=50, steps=10, lr=0.01)
    seconds = _quickest(
        lambda terms: gi.aid(toy.trace, toy.metric, terms=int(terms), damping=1.0),
        counts,
        1 if preset == "smoke" else 3,
    )
    return _linear(counts, seconds, "terms M", "seconds")


@claim(
    "complexity-aid-memory",
    "TNNLS IV-C3, Table I",
    "AID's memory does not grow with T or M, and is linear in d: it needs theta^(T), w and grad E only.",
    "complexity",
    r"\mathrm{memory} = O(d_\theta)",
)
def complexity_aid_memory(preset: str) -> Outcome:
    """Peak memory of torch's tensors while AID runs, for M = 10 and M = 60, and for networks of growing width: flat in
    M; in d it also holds the graph of one gradient, which grows with d and with the rows."""
    toy = games.mlp(steps=5)
    peaks = {terms: _peak_bytes(toy, terms) for terms in (10, 60)}
    flat = abs(peaks[60] - peaks[10]) / peaks[10]
    widths = np.array([8, 32, 128, 512])
    wide = [games.mlp(steps=1, width=int(width), lr=0.01) for width in widths]
    sizes = np.array([toy.trace.game.size for toy in wide])
    grown = np.array([_peak_bytes(toy, 10) for toy in wide])
    rate, half = slope(sizes[1:], grown[1:])
    numbers = {"growth from M = 10 to M = 60": flat, "log-log slope in d": rate, "95 % half-width": half}
    plot = Plot("parameters d", "peak bytes", [Curve("AID, M = 10", sizes.tolist(), grown.tolist())])
    if flat > 0.05:
        return at_most(flat, 0.05, numbers, plot)
    return close(rate, 1, 0.15, numbers, plot)


@claim(
    "damping-as-regulariser",
    "TNNLS IV-C4",
    "Replacing J by J + gamma I corresponds to adding gamma |theta|^2 / 2 to the cost function.",
    "identity",
    r"J(\theta) + \gamma I",
)
def damping_as_regulariser(preset: str) -> Outcome:
    """The paper has one cost, V. Adding the term to V changes J by diag(+gamma, -gamma): it damps the generator and
    amplifies the discriminator. Adding it to each player's own cost (l2 = (gamma, gamma)) gives J + gamma I: AID with
    damping equals AID of that game at the same theta."""
    gamma = 0.7
    toy = games.lqgan(rows=25, steps=60)
    h = toy.twin.hessian(toy.thetas[-1]) + gamma * np.eye(4)
    to_v = lqgan.SIGNS[:, None] * h
    wanted = toy.twin.jacobian(toy.thetas[-1]) + gamma * np.eye(4)
    printed = float(np.abs(to_v - wanted).max())
    damped = gi.aid(toy.trace, toy.metric, terms=50, damping=gamma)
    game = toy.trace.game
    regularised = gi.Game(game.generator.module, game.discriminator.module, l2=(gamma, gamma))
    there = gi.Trace(
        regularised, toy.trace.data, toy.trace.schedule, toy.trace.updates, toy.trace.weights, toy.trace.states[-1:]
    )
    amended = relative(gi.aid(there, toy.metric, terms=50).numpy(), damped.numpy())
    return correction(
        printed,
        amended,
        1e-12,
        printed=f"added to V, the discriminator's block of J changes by -gamma: J is off by {printed:.2f} = 2 gamma",
        amended=f"added to each player's own cost, V + gamma (|phi|^2 - |psi|^2)/2: scores equal to {amended:.0e}",
    )


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
    toy = games.mlp()
    scores = gi.itd(toy.trace, toy.metric).numpy()
    single = np.array([_algorithm_1_for_one_row(toy, j) for j in range(6)])
    return at_most(relative(scores[:6], single), 1e-11, {"rows by their own sweep": 6, "T": toy.trace.steps})


def _algorithm_1_for_one_row(toy: games.Toy, row: int) -> float:
    """TNNLS Algorithm 1 as printed, for one row."""
    trace, game = toy.trace, toy.trace.game
    theta = trace.theta().clone().requires_grad_()
    (u,) = torch.autograd.grad(toy.metric.value(gi.Players(game, *game.split(theta))), theta)
    score = 0.0
    for t in reversed(range(trace.steps)):
        inputs = trace.inputs(t)
        theta = trace.theta(t).clone().requires_grad_()
        phi, psi = game.split(theta)
        generator_loss, discriminator_loss = game.losses(phi, psi, inputs.rows, inputs.latents, trace.weights)
        of_generator, of_discriminator = (
            torch.autograd.grad(cost, theta, create_graph=True)[0] for cost in (generator_loss, discriminator_loss)
        )
        v = torch.cat([game.split(of_generator)[0], game.split(of_discriminator)[1]])
        cost = game.loss.real(game.discriminator.at(psi)(inputs.rows[row : row + 1]).reshape(-1)).sum()
        (change,) = torch.autograd.grad(cost, theta)
        score += toy.lr / len(trace.data) * float(change @ u)
        (product,) = torch.autograd.grad(v @ u, theta)
        u = u - toy.lr * product
    return score


def _quickest(call: Callable[[int], object], sizes: np.ndarray, repeats: int) -> list[float]:
    call(sizes[0])
    times: dict[int, list[float]] = {int(size): [] for size in sizes}
    for _ in range(repeats):
        for size in sizes:
            begun = time.process_time()
            call(size)
            times[int(size)].append(time.process_time() - begun)
    return [min(of_size) for of_size in times.values()]


def _linear(sizes: np.ndarray, seconds: list[float], xlabel: str, ylabel: str) -> Outcome:
    """Linear growth: what each size takes beyond the smallest, which removes what is paid once, has slope 1 +- 0.3."""
    extra = np.array(seconds[1:]) - seconds[0]
    rate, half = slope(sizes[1:] - sizes[0], extra)
    numbers = {"95 % half-width": half, "microseconds each": float(1e6 * extra[-1] / (sizes[-1] - sizes[0]))}
    plot = Plot(xlabel, ylabel, [Curve("measured", sizes.tolist(), seconds)])
    return close(rate, 1, 0.3, numbers, plot)


class _LiveBytes(TorchDispatchMode):
    """Counts the bytes of torch's tensors that are alive, and their peak."""

    def __init__(self) -> None:
        super().__init__()
        self.live = self.peak = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
        made = func(*args, **(kwargs or {}))
        before = {one.untyped_storage().data_ptr() for one in args if isinstance(one, Tensor)}
        for tensor in made if isinstance(made, tuple | list) else (made,):
            if isinstance(tensor, Tensor) and tensor.untyped_storage().data_ptr() not in before:
                storage = tensor.untyped_storage()
                self.live += storage.nbytes()
                self.peak = max(self.peak, self.live)
                weakref.finalize(storage, self._release, storage.nbytes())
        return made

    def _release(self, size: int) -> None:
        self.live -= size


def _peak_bytes(toy: games.Toy, terms: int) -> int:
    """The largest sum of bytes of live tensors while AID runs."""
    with _LiveBytes() as counted:
        gi.aid(toy.trace, toy.metric, terms=terms, damping=1.0)
    return counted.peak
