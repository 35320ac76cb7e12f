"""What the core promises beside the papers' own equations: schedules, optimisers, kept states, weights, metrics.

Nothing of ``gan_influence`` computes what it is compared with. LQGAN's runs are done a second time in NumPy, with the
optimisers' published rules written out, and differentiated in a row's weight by the complex step (Squire and Trapp
1998): a weight ``w_j + i h`` with h = 1e-30 leaves the run as it is and makes the imaginary part of every number, over
h, its derivative, without differencing and without a backward pass. Jacobians for AID are LQGAN's closed forms.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
import scipy.linalg
import torch
from torch import Tensor, nn

import gan_influence as gi
from gan_influence.metrics import log_sums
from gan_influence.optimizers import Optimizer
from verification import dense_training
from verification.dense_lqgan import LQGAN, Array
from verification.judge import at_most, relative, richardson
from verification.ledger import Outcome, claim

ROWS, STEPS = 7, 10
TINY = 1e-30  # the complex step

Memory = dict[str, Array]
Move = Callable[[Array, Array, Memory, int], Array]
"""``(theta, gradient, what it remembers, the number of its own update: 0, 1, ...) -> theta``."""
Rate = Callable[[Any], Any]
PLAYERS = (slice(0, 2), slice(2, 4))  # of theta: the generator's part, the discriminator's
MOVERS: dict[str, Callable[[int], tuple[tuple[int, ...], ...]]] = {
    "simultaneous": lambda t: ((0, 1),),
    "alternating": lambda t: ((1,), (0,)),
    "turns": lambda t: ((0,),) if t % 2 else ((1,),),
}


@dataclass(frozen=True)
class _Draws:
    """Batches as a function of the step and a seed.

    ``epochs``: the rows reshuffled every three steps, in batches of 3, 3 and 1. ``replacement``: four rows a step, one
    of them twice. ``latents``: all rows, with fresh latents. ``full``: all rows and the same latents.
    """

    kind: str
    seed: int

    def dense(self, t: int) -> dense_training.Batch:
        """The indices of a step's rows, and its latents."""
        latents = np.random.default_rng([self.seed, 0 if self.kind == "full" else t, 1]).normal(size=5)
        if self.kind == "epochs":
            order = np.random.default_rng([self.seed, t // 3, 2]).permutation(ROWS)
            return order[t % 3 * 3 : t % 3 * 3 + 3], latents
        if self.kind == "replacement":
            chosen = np.random.default_rng([self.seed, t, 3]).permutation(ROWS)[:3]
            return chosen[[0, 1, 2, 1]], latents
        return np.arange(ROWS), latents

    def __call__(self, t: int) -> gi.Batch:
        indices, latents = self.dense(t)
        whole = self.kind in ("latents", "full")
        return gi.Batch(None if whole else torch.from_numpy(indices), torch.from_numpy(latents)[:, None])


@dataclass(frozen=True)
class _Optimizers:
    """Both players' optimisers: the core's, and their rules written out."""

    core: Optimizer | tuple[Optimizer, Optimizer]
    dense: tuple[Move, Move]


def _sgd(
    lr: Rate, momentum: float = 0.0, dampening: float = 0.0, weight_decay: float = 0.0, nesterov: bool = False
) -> Move:
    """The rule in the documentation of ``torch.optim.SGD``."""

    def move(theta: Array, g: Array, memory: Memory, k: int) -> Array:
        g = g + weight_decay * theta
        if momentum:
            memory["b"] = momentum * memory["b"] + (1 - dampening) * g if k else g
            g = g + momentum * memory["b"] if nesterov else memory["b"]
        return theta - lr(k) * g

    return move


def _rmsprop(lr: Rate, alpha: float, eps: float, momentum: float, weight_decay: float) -> Move:
    """The rule in the documentation of ``torch.optim.RMSprop``, centred."""

    def move(theta: Array, g: Array, memory: Memory, k: int) -> Array:
        g = g + weight_decay * theta
        memory["v"] = alpha * memory.get("v", np.zeros_like(g)) + (1 - alpha) * g**2
        memory["mean"] = alpha * memory.get("mean", np.zeros_like(g)) + (1 - alpha) * g
        step = g / (np.sqrt(memory["v"] - memory["mean"] ** 2) + eps)
        memory["b"] = momentum * memory.get("b", np.zeros_like(g)) + step
        return theta - lr(k) * memory["b"]

    return move


def _adam(lr: Rate, betas: tuple[float, float], eps: float, weight_decay: float = 0.0, decoupled: bool = False) -> Move:
    """Kingma and Ba 2015, Algorithm 1; ``decoupled``: Loshchilov and Hutter 2019, Algorithm 2, as torch scales it."""

    def move(theta: Array, g: Array, memory: Memory, k: int) -> Array:
        if decoupled:
            theta = theta - lr(k) * weight_decay * theta
        else:
            g = g + weight_decay * theta
        memory["m"] = betas[0] * memory.get("m", np.zeros_like(g)) + (1 - betas[0]) * g
        memory["v"] = betas[1] * memory.get("v", np.zeros_like(g)) + (1 - betas[1]) * g**2
        first, second = memory["m"] / (1 - betas[0] ** (k + 1)), memory["v"] / (1 - betas[1] ** (k + 1))
        return theta - lr(k) * first / (np.sqrt(second) + eps)

    return move


def _constant(lr: float) -> Rate:
    return lambda k: lr


def _falling(k: Any) -> Any:
    return 0.2 * 0.8**k


def _rising(k: Any) -> Any:
    return 0.05 + 0.01 * k


def _inverse_sqrt(lr: float) -> Rate:
    return lambda k: lr / math.sqrt(k + 1)


PLAIN = _Optimizers((gi.SGD(_falling), gi.SGD(_rising)), (_sgd(_falling), _sgd(_rising)))
MOMENTUM = _Optimizers(
    gi.SGD(0.1, momentum=0.8, dampening=0.3, weight_decay=0.1),
    (_sgd(_constant(0.1), momentum=0.8, dampening=0.3, weight_decay=0.1),) * 2,
)
ADAM = _Optimizers(
    gi.Adam(_falling, betas=(0.5, 0.9), eps=1e-3, weight_decay=0.1),
    (_adam(_falling, (0.5, 0.9), 1e-3, weight_decay=0.1),) * 2,
)
OPTIMIZERS = {
    "SGD with momentum, dampened": MOMENTUM,
    "SGD with Nesterov's momentum": _Optimizers(
        gi.SGD(gi.InverseSqrt(0.1), momentum=0.8, weight_decay=0.1, nesterov=True),
        (_sgd(_inverse_sqrt(0.1), momentum=0.8, weight_decay=0.1, nesterov=True),) * 2,
    ),
    "RMSProp, centred, with momentum": _Optimizers(
        gi.RMSProp(0.02, alpha=0.9, eps=1e-2, weight_decay=0.1, momentum=0.5, centered=True),
        (_rmsprop(_constant(0.02), 0.9, 1e-2, momentum=0.5, weight_decay=0.1),) * 2,
    ),
    "Adam with a schedule": ADAM,
    "AdamW and SGD": _Optimizers(
        (gi.AdamW(0.05, eps=1e-3, weight_decay=0.2), gi.SGD(_rising)),
        (_adam(_constant(0.05), (0.9, 0.999), 1e-3, weight_decay=0.2, decoupled=True), _sgd(_rising)),
    ),
}
WEIGHTS = np.array([1.0, 0.0, 0.5, 2.0, 1.0, 1.5, 1.0])


class _Measure:
    """ALL of the generator, away from bandwidth 1, and a component of the discriminator: a metric of all parameters."""

    bandwidth, direction = 0.8, np.array([0.3, -0.2])

    def __init__(self, seed: int):
        draws = np.random.default_rng([seed, 5])
        self.reference, self.latents = draws.normal(1.0, 1.0, 6), draws.normal(size=5)
        reference, latents = torch.from_numpy(self.reference)[:, None], torch.from_numpy(self.latents)[:, None]
        self.likelihood = gi.metrics.AverageLogLikelihood(reference, latents, self.bandwidth)

    def value(self, players: gi.Players) -> Tensor:
        return (
            self.likelihood.value(players)
            + (torch.from_numpy(self.direction) * players.parameters["discriminator"]).sum()
        )

    def dense(self, theta: Array) -> Array:
        """The same of parameters ``(..., 4)``, in NumPy."""
        generated = theta[..., :1] * self.latents + theta[..., 1:2]
        squares = (self.reference[:, None] - generated[..., None, :]) ** 2
        kernels = np.exp(-squares / (2 * self.bandwidth**2)) / math.sqrt(2 * math.pi * self.bandwidth**2)
        return np.log(kernels.mean(axis=-1)).mean(axis=-1) + theta[..., 2:] @ self.direction


class _Run(NamedTuple):
    """The states ``(T + 1, games, 4)``: the parameters, and those with the averaged generator, which metrics see."""

    theta: Array
    seen: Array


@dataclass(frozen=True)
class _Twin:
    """A run of LQGAN, by the core and in NumPy."""

    optimizers: _Optimizers
    order: str = "simultaneous"
    decay: float | None = None
    batches: str = "epochs"
    weights: Array = field(default_factory=lambda: np.ones(ROWS))
    seed: int = 0

    @cached_property
    def schedule(self) -> _Draws:
        return _Draws(self.batches, self.seed)

    @cached_property
    def rows(self) -> Array:
        return np.random.default_rng([self.seed, 6]).normal(1.0, 1.0, ROWS)

    @cached_property
    def start(self) -> Array:
        return np.array([0.7, 0.2, 0.4, -0.6]) + 0.2 * np.random.default_rng([self.seed, 7]).normal(size=4)

    @cached_property
    def metric(self) -> _Measure:
        return _Measure(self.seed)

    def trained(self, memory: str | gi.Checkpoint = "full") -> gi.Trace:
        """By the core."""
        game = gi.Game(*gi.models.lqgan(*self.start.tolist()))
        return gi.train(
            game,
            torch.from_numpy(self.rows)[:, None],
            self.schedule,
            STEPS,
            self.optimizers.core,
            update=self.order,
            ema_decay=self.decay,
            memory=memory,
            weights=torch.from_numpy(self.weights),
        )

    @cached_property
    def run(self) -> _Run:
        return self.runs(self.weights[None])

    def runs(self, weights: Array, first: int = 0, damping: float = 0.0) -> _Run:
        """In NumPy, one game for each of ``weights``, ``(games, N)``, which hold from step ``first`` on; before it all
        games have the twin's own. Complex games are tethered to their real part with the strength ``damping``."""
        theta = average = np.tile(self.start.astype(weights.dtype), (len(weights), 1))
        memories: tuple[Memory, Memory] = ({}, {})
        taken, kept = [0, 0], [(theta, average)]
        for t in range(STEPS):
            indices, latents = self.schedule.dense(t)
            of_step = weights if t >= first else np.broadcast_to(self.weights, weights.shape)
            for movers in MOVERS[self.order](t):
                slope = _field(theta, self.rows[indices], latents, of_step[:, indices])
                slope = slope + damping * (theta - theta.real)
                parts = [theta[:, part] for part in PLAYERS]
                for k in movers:
                    parts[k] = self.optimizers.dense[k](parts[k], slope[:, PLAYERS[k]], memories[k], taken[k])
                    taken[k] += 1
                theta = np.concatenate(parts, axis=1)
            beta = 1 - (self.decay or 0.0)
            mean = (1 - beta) * average[:, PLAYERS[0]] + beta * theta[:, PLAYERS[0]]
            average = np.concatenate([mean, theta[:, PLAYERS[1]]], axis=1)
            kept.append((theta, average))
        return _Run(*(np.stack(states) for states in zip(*kept, strict=True)))

    def scores(self, first: int = 0, damping: float = 0.0) -> Array:
        """``- w_j d E / d w_j`` as if the run had ended after each step, by the complex step: (T + 1, N). Weights of
        steps before ``first`` are constants."""
        tilted = self.weights + 1j * TINY * np.eye(ROWS)
        return -self.weights * self.metric.dense(self.runs(tilted, first, damping).seen).imag / TINY

    def differences(self, removals: list[list[int]], first: int = 0) -> Array:
        """``E(after removal) - E(before)`` after each step, of runs without these rows from step ``first`` on."""
        weights = np.tile(self.weights, (len(removals), 1))
        for own, removed in zip(weights, removals, strict=True):
            own[removed] = 0.0
        return self.metric.dense(self.runs(weights, first).seen) - self.metric.dense(self.run.seen)


def _field(theta: Array, rows: Array, latents: Array, weights: Array) -> Array:
    """v of minimax LQGAN (TNNLS eq. 4), as :meth:`verification.dense_lqgan.LQGAN.velocity`, for complex numbers too."""
    scale, shift, quadratic, linear = (theta[:, k : k + 1] for k in range(4))
    y = scale * latents + shift
    of_real = weights / (1 + np.exp((quadratic * rows + linear) * rows))
    of_fake = -1 / (1 + np.exp(-(quadratic * y + linear) * y))
    slope = of_fake * (2 * quadratic * y + linear)
    by_phi = [(slope * latents).mean(axis=1), slope.mean(axis=1)]
    by_psi = [(of_real * rows**n).sum(axis=1) / len(rows) + (of_fake * y**n).mean(axis=1) for n in (2, 1)]
    return np.stack([*by_phi, *(-part for part in by_psi)], axis=1)


def _seeds(preset: str) -> range:
    return range(5 if preset == "standard" else 1)


@claim(
    "optimisers",
    "TNNLS eq. 3, Appendix B; ICLR eq. 3, Appendix A",
    "Momentum, RMSProp, Adam and AdamW, players at once, one after the other or in turns, and the average from theta_0 "
    "on: training follows the published rules, and ITD is the derivative of all of it.",
    "identity",
    r"\overline{\varphi}^{(0)} = \varphi^{(0)},\quad b^{(0)} = g^{(0)},\quad "
    r"\mathrm{score}_j = -w_j\,\frac{\mathrm{d}E(\overline{\theta}^{(T)}(w))}{\mathrm{d}w_j}",
)
def optimisers(preset: str) -> Outcome:
    """Each optimiser of the core in each order of moves, on minibatches, with an averaged generator: all parameters and
    averages against a run in NumPy by the rules of torch.optim's documentation, where the first velocity is the
    gradient itself, Nesterov's step uses the new velocity, and in turns bias corrections and schedules count a player's
    own updates; and ITD's scores at three stopping times, of a metric that sees the averaged generator, against
    the complex-step derivative of that run."""
    numbers = {"training": 0.0, "average": 0.0, "scores": 0.0}
    stops = [STEPS, 3, 6]
    for seed in _seeds(preset):
        for optimizers in OPTIMIZERS.values():
            for order in MOVERS:
                twin = _Twin(optimizers, order, 0.8, seed=seed)
                trace = twin.trained()
                scores = gi.itd(trace, twin.metric, at=stops).numpy()
                found = {
                    "training": relative(trace.states[:, 0].numpy(), twin.run.theta[:, 0]),
                    "average": relative(trace.states[:, -1].numpy(), twin.run.seen[:, 0]),
                    "scores": relative(scores, twin.scores()[stops]),
                }
                numbers = {name: max(numbers[name], error) for name, error in found.items()}
    return at_most(max(numbers.values()), 1e-11, numbers)


@claim(
    "damped-moves",
    "TNNLS IV-C4, with Appendix B and ICLR Appendix A",
    "Damping turns J into J + gamma I in every move of every player: under momentum and Adam it is a part of the "
    "gradient's derivative, scaled as that is.",
    "identity",
    r"\mathrm{d}g^{(t)} = (J + \gamma I)\,\mathrm{d}\theta^{(t)} + \partial_w v\,\mathrm{d}w",
)
def damped_moves(preset: str) -> Outcome:
    """Damped ITD against the complex-step derivative of a run whose gradients are v(theta) + gamma (theta - theta of
    the run itself), which leaves the run as it is: for SGD with a rate for each player, momentum and Adam, in each
    order of moves, and for the last steps alone."""
    numbers = {}
    for name, optimizers in {"SGD": PLAIN, "momentum": MOMENTUM, "Adam": ADAM}.items():
        errors = []
        for seed in _seeds(preset):
            for order in MOVERS:
                twin = _Twin(optimizers, order, 0.8, seed=seed)
                trace = twin.trained()
                for gamma, last in ((0.6, STEPS), (2.0, 4)):
                    scores = gi.itd(trace, twin.metric, damping=gamma, last=last).numpy()
                    errors.append(relative(scores, twin.scores(STEPS - last, gamma)[-1]))
        numbers[name] = max(errors)
    return at_most(max(numbers.values()), 1e-11, numbers)


@claim(
    "row-weights",
    "TNNLS eq. 6, 10, 43",
    "Rows may have weights: a score is -w_j dE/dw_j, 0 for a row of weight 0, and a batch that holds a row twice "
    "counts it twice.",
    "identity",
    r"\mathrm{score}_j = -w_j\,\frac{\mathrm{d}E}{\mathrm{d}w_j},\quad "
    r"V_w = \frac{1}{|\mathcal{X}_t|}\sum_{i\in\mathcal{X}_t} w_i\,f(D(\psi,x_i)) + \ldots",
)
def row_weights(preset: str) -> Outcome:
    """Rows of weight 0, 1/2, 1, 3/2 and 2, in batches with a row twice, in epochs with a smaller last batch, and all
    together: the run against NumPy, ITD of the whole run and of its last steps against the complex step."""
    numbers: dict[str, float] = {}
    for batches in ("replacement", "epochs", "full"):
        for seed in _seeds(preset):
            twin = _Twin(PLAIN, "alternating", batches=batches, weights=WEIGHTS, seed=seed)
            trace = twin.trained()
            scores = [gi.itd(trace, twin.metric, last=last).numpy() for last in (None, 4)]
            errors = (
                relative(trace.states[:, 0].numpy(), twin.run.theta[:, 0]),
                *(relative(one, twin.scores(first)[-1]) for one, first in zip(scores, (0, STEPS - 4), strict=True)),
                float(abs(scores[0][WEIGHTS == 0]).max()),
            )
            numbers[batches] = max(numbers.get(batches, 0.0), *errors)
    return at_most(max(numbers.values()), 1e-11, numbers)


@claim(
    "replayed-states",
    "TNNLS IV-C3, Table I (memory O(T) of ITD)",
    "A run that keeps every k-th state and replays the others has the states and the scores of one that keeps all.",
    "identity",
    r"\theta^{(t+1)} = \mathrm{update}(\theta^{(t)}, v(\theta^{(t)};\mathcal{X}_t)),\quad k\,|\,t",
)
def replayed_states(preset: str) -> Outcome:
    """Adam, one player after the other, with an average; states kept every third step, with and without the graphs of
    the replay, or about every sqrt(T). Each state, asked for out of order, against a run in NumPy that replays nothing;
    ITD's scores, damped and not, against the complex-step derivative of that run."""
    numbers: dict[str, float] = {}
    memories: dict[str, str | gi.Checkpoint] = {
        "every third": gi.Checkpoint(every=3),
        "every third, graphs kept": gi.Checkpoint(every=3, keep_graphs=True),
        "about sqrt(T)": "checkpoint",
    }
    for seed in _seeds(preset):
        twin = _Twin(ADAM, "alternating", 0.8, seed=seed)
        asked = np.random.default_rng(seed).permutation(STEPS + 1)
        for name, memory in memories.items():
            trace = twin.trained(memory)
            states = np.stack([trace.state(int(t)).moving[[0, -1]].numpy() for t in asked])
            expected = np.stack([twin.run.theta[asked, 0], twin.run.seen[asked, 0]], axis=1)
            errors = [relative(states, expected)]
            for gamma in (0.0, 0.6):
                scores = gi.itd(trace, twin.metric, damping=gamma).numpy()
                errors.append(relative(scores, twin.scores(damping=gamma)[-1]))
            numbers[name] = max(numbers.get(name, 0.0), *errors)
    return at_most(max(numbers.values()), 1e-11, numbers)


@claim(
    "retraining",
    "TNNLS eq. 7, Definition 2; ICLR Section 3",
    "Retraining, of all steps or the last ones, sets the removed rows' weights to 0 and starts from the factual state: "
    "parameters, buffers and average.",
    "algorithm",
    r"\Delta E_{-S} = E(\overline{\theta}_{-S}^{(T)}) - E(\overline{\theta}^{(T)})",
)
def retraining(preset: str) -> Outcome:
    """Removals of one and of three rows, one of them of weight 0, from runs with momentum or Adam and an averaged
    generator: gi.retrain's states, gi.counterfactual's differences after the last steps alone and at several stopping
    times, models stacked and one by one, against runs in NumPy from the first step on whose weights change late."""
    numbers = {"states": 0.0, "last steps": 0.0, "stopping times": 0.0, "one model at a time": 0.0}
    removals, last, stops = [[0], [3, 1, 5]], 4, [6, STEPS, 3]
    for seed in _seeds(preset):
        for optimizers, order in ((MOMENTUM, "alternating"), (ADAM, "simultaneous")):
            twin = _Twin(optimizers, order, 0.8, weights=WEIGHTS, seed=seed)
            trace, alone = twin.trained(), twin.trained()
            alone.game.stacks = False
            late = twin.differences(removals, STEPS - last)[-1]
            found = {
                "states": max(_retrained(twin, trace, removed, last) for removed in removals),
                "last steps": relative(gi.counterfactual(trace, twin.metric, removals, last).numpy(), late),
                "stopping times": relative(
                    gi.counterfactual(trace, twin.metric, removals, at=stops).numpy(), twin.differences(removals)[stops]
                ),
                "one model at a time": relative(gi.counterfactual(alone, twin.metric, removals, last).numpy(), late),
            }
            numbers = {name: max(numbers[name], error) for name, error in found.items()}
    return at_most(max(numbers.values()), 1e-10, numbers)


def _retrained(twin: _Twin, trace: gi.Trace, removed: list[int], last: int) -> float:
    """How far the states of the retrained last steps are from the run in NumPy."""
    weights = twin.weights[None].copy()
    weights[0, removed] = 0.0
    run = twin.runs(weights, STEPS - last)
    states = gi.retrain(trace, removed, last).states[:, [0, -1]].numpy()
    return relative(states, np.stack([run.theta[-last - 1 :, 0], run.seen[-last - 1 :, 0]], axis=1))


@claim(
    "aid-of-batches",
    "TNNLS eq. 14, 16b, 18, VI-A2, IV-C4",
    "Stochastic AID multiplies by the Z of the steps after the end, T + m - 1 for term m, with the learning rates of "
    "the run's last step; its limit takes the mean of J over an epoch's rows.",
    "identity",
    r"\widetilde{\Delta E}_{-j} = w_j\,\Delta v_{-j}(\theta^{(T)})^{\top}\sum_{m=0}^{M-1} Z_m^{\top}\cdots Z_1^{\top}"
    r"\nabla E(\overline{\theta}^{(T)}),\quad "
    r"Z_m = I - \eta_{T-1}\,(J(\theta^{(T)};\mathcal{X}_{T+m-1}) + \gamma I)",
)
def aid_of_batches(preset: str) -> Outcome:
    """LQGAN's closed Jacobians of each batch multiplied out, for batches of 3, 3 and 1 of 7 weighted rows, with a row
    twice, of all rows with fresh latents, and of all rows with the same: the series for M = 1, 2, 3 and 8, at three
    stopping times of one run, damped and not, in each order of moves, with rates that fall for one player and rise for
    the other, with weight decay, and with a scale of one's own; and the limit, which GMRES finds, against a dense
    solution with the batches' mean J, each weighted by its rows. The metric's slope is taken at the averaged
    generator, J at the parameters."""
    numbers: dict[str, float] = {}
    for seed in _seeds(preset):
        for batches in ("epochs", "replacement", "latents", "full"):
            for order, decayed in (("simultaneous", False), ("alternating", True), ("turns", False)):
                twin = _Twin(_aid_optimizers(decayed), order, 0.8, batches, WEIGHTS, seed)
                decay = AID_DECAY if decayed else (0.0, 0.0)
                for name, error in _aid_errors(twin, decay).items():
                    name = f"{name}, batches: {batches}"
                    numbers[name] = max(numbers.get(name, 0.0), error)
    return at_most(max(numbers.values()), 1e-10, numbers)


AID_DECAY = (0.3, 0.1)
TERMS = [1, 2, 3, 8]


def _aid_optimizers(decayed: bool) -> _Optimizers:
    generator, discriminator = AID_DECAY if decayed else (0.0, 0.0)
    return _Optimizers(
        (gi.SGD(_falling, weight_decay=generator), gi.SGD(_rising, weight_decay=discriminator)),
        (_sgd(_falling, weight_decay=generator), _sgd(_rising, weight_decay=discriminator)),
    )


def _aid_errors(twin: _Twin, decay: tuple[float, float]) -> dict[str, float]:
    trace, stops = twin.trained(), [STEPS, 4, 7]
    last = STEPS // 2 - 1 if twin.order == "turns" else STEPS - 1  # both players' own last update
    eta = np.repeat([_falling(last), _rising(last)], 2)
    series = gi.aid(trace, twin.metric, terms=TERMS, damping=0.4, at=stops).numpy()
    undamped = gi.aid(trace, twin.metric, terms=TERMS[-1], scale=0.07).numpy()
    limits = gi.aid(trace, twin.metric, terms=100, damping=3.0, solver="gmres", at=stops).numpy()
    dense = [_DenseAID(twin, stop) for stop in stops]
    decays = np.repeat(decay, 2)
    return {
        "series": relative(series, np.stack([one.series(eta, decays + 0.4) for one in dense])),
        "series, own scale": relative(undamped, dense[0].series(np.full(4, 0.07), decays)[-1]),
        "limit": relative(limits, np.stack([one.limit(decays + 3.0) for one in dense])),
    }


@dataclass(frozen=True)
class _DenseAID:
    """AID at the state after step ``stop``, from LQGAN's closed forms; the batches follow the end of the run."""

    twin: _Twin
    stop: int

    @cached_property
    def gradient(self) -> Array:
        """The metric's slope where it looks, by the complex step."""
        return self.twin.metric.dense(self.twin.run.seen[self.stop, 0] + 1j * TINY * np.eye(4)).imag / TINY

    @cached_property
    def jumps(self) -> Array:
        """Each row's ``Delta v`` for eta = 1, with the denominator N and its weight: (N, 4)."""
        whole = LQGAN(self.twin.rows, np.zeros(1), eta=1.0)
        return self.twin.weights[:, None] * whole.row_jumps(self.twin.run.theta[self.stop, 0])

    def jacobian(self, t: int) -> Array:
        indices, latents = self.twin.schedule.dense(t)
        game = LQGAN(self.twin.rows[indices], latents, eta=1.0)
        return game.jacobian(self.twin.run.theta[self.stop, 0], self.twin.weights[indices])

    def series(self, eta: Array, shift: Array) -> Array:
        """Scores for each number of terms: (len(TERMS), N)."""
        term, total, found = self.gradient, self.gradient, [self.gradient]
        for m in range(1, max(TERMS)):
            z = np.eye(4) - eta[:, None] * (self.jacobian(STEPS + m - 1) + np.diag(shift))
            term = z.T @ term
            total = total + term
            found.append(total)
        return np.stack([self.jumps @ (eta * found[count - 1]) for count in TERMS])

    def limit(self, shift: Array) -> Array:
        """``Delta v . (J + shift)^-T grad E`` with the mean J of the batches from step T on that hold N rows."""
        total, held, t = np.zeros((4, 4)), 0, STEPS
        while held < ROWS:
            size = len(self.twin.schedule.dense(t)[0])
            total, held, t = total + size * self.jacobian(t), held + size, t + 1
        return self.jumps @ np.linalg.solve((total / held + np.diag(shift)).T, self.gradient)


LATENTS, IMAGES = 8, 9


@dataclass(frozen=True)
class _Images:
    """An affine generator of points in the plane, ``G(z) = A z + b``: the core's, and as a function of ``(A, b)``."""

    seed: int

    @cached_property
    def latents(self) -> Array:
        return np.random.default_rng([self.seed, 11]).normal(size=(LATENTS, 2))

    @cached_property
    def reference(self) -> Array:
        turned = np.random.default_rng([self.seed, 12]).normal(size=(IMAGES, 2)) @ np.array([[1.0, 0.4], [0.0, 0.7]])
        return turned + np.array([0.5, -0.3])

    @cached_property
    def parameters(self) -> Array:
        return np.array([0.9, 0.3, -0.2, 0.6, 0.1, 0.2]) + 0.1 * np.random.default_rng([self.seed, 13]).normal(size=6)

    def generated(self, parameters: Array) -> Array:
        return self.latents @ parameters[:4].reshape(2, 2).T + parameters[4:]

    def network(self, outputs: int) -> tuple[nn.Module, Callable[[Array], Array]]:
        """A network of one layer on these points, as a module and in NumPy."""
        draws = np.random.default_rng([self.seed, 14])
        weight, bias = draws.normal(size=(outputs, 2)), draws.normal(size=outputs)
        layer = nn.Linear(2, outputs).double()
        with torch.no_grad():
            layer.weight.copy_(torch.from_numpy(weight))
            layer.bias.copy_(torch.from_numpy(bias))
        return nn.Sequential(layer, nn.Tanh()), lambda points: np.tanh(points @ weight.T + bias)

    def errors(self, metric: gi.metrics.Metric, value: Callable[[Array], float], unit: float = 1.0) -> _Errors:
        """The core's metric against a function of the parameters, differenced with steps of up to ``unit`` / 50."""
        game = gi.Game(nn.Linear(2, 2).double(), nn.Linear(2, 1).double())
        phi = torch.from_numpy(self.parameters).requires_grad_()
        found = metric.value(gi.Players(game, [phi, game.discriminator.vector()]))
        (slope,) = torch.autograd.grad(found, phi, create_graph=True)
        directions = np.random.default_rng([self.seed, 15]).normal(size=(4, 6))
        curved = []
        for u in map(torch.from_numpy, directions):
            (turned,) = torch.autograd.grad(slope @ u, phi, retain_graph=True)
            curved.append(float(turned @ u))
        at, steps = self.parameters, unit * np.array([0.02, 0.01, 0.005])
        expected = value(at)
        central, second = [], []
        for h in steps:
            central.append([(value(at + h * e) - value(at - h * e)) / (2 * h) for e in np.eye(6)])
            second.append([(value(at + h * u) - 2 * expected + value(at - h * u)) / h**2 for u in directions])
        return _Errors(
            relative(found.detach().numpy(), np.array(expected)),
            relative(slope.detach().numpy(), richardson(np.array(central))),
            relative(np.array(curved), richardson(np.array(second))),
        )


class _Errors(NamedTuple):
    """Relative, of a metric."""

    value: float
    gradient: float
    second: float

    @property
    def largest(self) -> float:
        """Of a value, against whose tolerance differences have 1e5 and second differences 1e7 times as much."""
        return max(self.value, 1e-5 * self.gradient, 1e-7 * self.second)


def _metric_outcome(errors: list[tuple[str, _Errors]]) -> Outcome:
    """Of the errors in each case, which may stand there several times."""
    numbers: dict[str, float] = {}
    for case, found in errors:
        for part, error in found._asdict().items():
            name = f"{case}: {part}"
            numbers[name] = max(numbers.get(name, 0.0), error)
    return at_most(max(found.largest for _, found in errors), 1e-12, numbers)


@claim(
    "all-formula",
    "TNNLS VI-A1, Appendix C-A; ICLR C.1",
    "ALL is the mean log-density of the reference rows under Gaussian kernels of bandwidth h at the generated points.",
    "identity",
    r"E = \frac{1}{n}\sum_i \log\frac{1}{K}\sum_k (2\pi h^2)^{-d/2}"
    r"\exp\left(-\frac{\|x_i - G(\varphi,z_k)\|^2}{2h^2}\right)",
)
def all_formula(preset: str) -> Outcome:
    """The formula in NumPy, in two dimensions, for bandwidths below and above 1: the core's value, its gradient against
    central differences and its second derivative along random directions against second differences, both with
    Richardson extrapolation. Once with all kernels at once, once block by block, and once with a bandwidth so small
    that the core forms every difference of two points."""
    errors = []
    for seed in _seeds(preset):
        images = _Images(seed)
        reference, latents = torch.from_numpy(images.reference), torch.from_numpy(images.latents)
        for h, unit in ((0.4, 0.4), (1.7, 1.0), (1e-3, 4e-3)):
            metric = gi.metrics.AverageLogLikelihood(reference, latents, bandwidth=h)

            def value(parameters: Array, images: _Images = images, h: float = h) -> float:
                differences = images.reference[:, None] - images.generated(parameters)
                exponents = -(differences**2).sum(axis=-1) / (2 * h**2) - math.log(2 * math.pi * h**2)
                return float(np.mean(np.logaddexp.reduce(exponents, axis=1) - math.log(LATENTS)))

            errors.append((f"h = {h}", images.errors(metric, value, unit)))
            with _blocks_of(20):
                errors.append((f"h = {h}, in blocks", images.errors(metric, value, unit)))
    return _metric_outcome(errors)


@contextmanager
def _blocks_of(kernels: int) -> Iterator[None]:
    """Let the core evaluate few kernels at a time, as it does where there are more than 2^22."""
    usual = log_sums._AT_ONCE, log_sums._BLOCK
    log_sums._AT_ONCE, log_sums._BLOCK = 0, kernels
    try:
        yield
    finally:
        log_sums._AT_ONCE, log_sums._BLOCK = usual


@claim(
    "inception-score-formula",
    "TNNLS VI-A2, Appendix C-A; ICLR 3.2, C.1",
    "IS is the exponential of the mean Kullback-Leibler divergence of an image's class probabilities from their mean.",
    "identity",
    r"E = \exp\left(\frac{1}{K}\sum_k\sum_y p(y|k)\log\frac{p(y|k)}{p(y)}\right),\quad "
    r"p(y) = \frac{1}{K}\sum_k p(y|k)",
)
def inception_score_formula(preset: str) -> Outcome:
    """The formula in NumPy, without any small number under a logarithm, and its logarithm, for a classifier of four
    classes: the core's value, its gradient against central differences, its second derivative along random directions
    against second differences. Images in one piece, and three at a time. Were the mean p(y) taken for a constant,
    value and gradient would be the same, since probabilities sum to 1: only the second derivative tells."""
    errors = []
    for seed in _seeds(preset):
        images = _Images(seed)
        module, logits = images.network(4)
        for logarithm in (False, True):
            for chunk in (LATENTS, 3):

                def value(
                    parameters: Array,
                    images: _Images = images,
                    logits: Callable[[Array], Array] = logits,
                    logarithm: bool = logarithm,
                ) -> float:
                    odds = np.exp(logits(images.generated(parameters)))
                    p = odds / odds.sum(axis=1, keepdims=True)
                    divergence = float((p * np.log(p / p.mean(axis=0))).sum(axis=1).mean())
                    return divergence if logarithm else math.exp(divergence)

                metric = gi.metrics.InceptionScore(
                    module, torch.from_numpy(images.latents), logarithm=logarithm, chunk=chunk
                )
                name = "log IS" if logarithm else "IS"
                errors.append((f"{name}, {chunk} images at a time", images.errors(metric, value)))
    return _metric_outcome(errors)


@claim(
    "fid-formula",
    "TNNLS VI-A2, Appendix C-A; ICLR C.1",
    "FID is the squared Frechet distance of two Gaussians with the features' means and covariances, each divided by "
    "its number of images less one.",
    "identity",
    r"E = \|\mu - \mu_r\|^2 + \mathrm{Tr}\left(C + C_r - 2\,(C\,C_r)^{1/2}\right)",
)
def fid_formula(preset: str) -> Outcome:
    """The formula with scipy.linalg.sqrtm and numpy.cov, for 8 generated and 9 real points, with the identity and a
    network of three outputs as features: the core's value, its gradient against central differences, its second
    derivative along random directions against second differences. Images in one piece, and three at a time."""
    errors = []
    for seed in _seeds(preset):
        images = _Images(seed)
        extractors: dict[str, tuple[nn.Module, Callable[[Array], Array]]] = {
            "points": (nn.Identity(), lambda points: points),
            "network": images.network(3),
        }
        for name, (module, features) in extractors.items():
            for chunk in (LATENTS, 3):

                def value(
                    parameters: Array, images: _Images = images, features: Callable[[Array], Array] = features
                ) -> float:
                    fake, real = features(images.generated(parameters)), features(images.reference)
                    c, c_real = (np.cov(one, rowvar=False, ddof=1) for one in (fake, real))
                    root = np.trace(scipy.linalg.sqrtm(c @ c_real)).real
                    shift = fake.mean(axis=0) - real.mean(axis=0)
                    return float(shift @ shift + np.trace(c) + np.trace(c_real) - 2 * root)

                metric = gi.metrics.FrechetDistance(
                    module, torch.from_numpy(images.reference), torch.from_numpy(images.latents), chunk=chunk
                )
                errors.append((f"{name}, {chunk} images at a time", images.errors(metric, value)))
    return _metric_outcome(errors)
